//! Options as given, and as checked.
