//! Counters as plain structs.
