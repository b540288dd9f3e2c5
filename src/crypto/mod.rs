//! The two layers: an inner and an outer AES-256-GCM, each from its own library and under its own key.
