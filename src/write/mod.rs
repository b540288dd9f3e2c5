//! From written bytes to a proven object.
