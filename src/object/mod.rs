//! Names and values of the store: buckets, keys, versions, ranges. Validated once, at the border.
