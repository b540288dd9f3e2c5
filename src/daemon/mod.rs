//! Builds the house from bottom to top, serves, and takes it down.
