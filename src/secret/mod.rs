//! Keys and plaintext in memory that is locked, left out of core dumps and wiped.
