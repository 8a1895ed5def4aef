//! The ROS 2 node's executable.
fn main() {}
