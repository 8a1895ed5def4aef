//! Segmentation and depth measures.
