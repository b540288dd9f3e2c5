//! A random-access file of sealed blocks.
