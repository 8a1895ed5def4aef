//! The ROS 2 node: parameters, the camera, outputs, diagnostics, shutdown. r2r is used here and in [`crate::demo`] only.
