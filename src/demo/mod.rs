//! The demo: plays a drive on a ROS 2 graph, collects what the node publishes, scores, records and shows it.
