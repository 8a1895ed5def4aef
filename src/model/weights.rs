//! Weights in and out.
