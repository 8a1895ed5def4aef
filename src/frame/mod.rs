//! One frame's path, in order of travel: decode -> input -> network -> output, and its stage clock.
//! The two ROS ends (arrive, publish) are in [`crate::node`].
