r"""semantic_depth.launch.py with the defaults of a vehicle with three cameras: one process, one network, batches.

    ros2 launch semantic_depth semantic_depth_multi.launch.py
    ros2 launch semantic_depth semantic_depth_multi.launch.py cameras:=front,rear image:=/vehicle/{camera}/image_raw

The node then listens on /sensors/front/image_raw and so on, and publishes /semantic_depth/front/output/labels and so
on. All arguments of semantic_depth.launch.py are there.
"""

import importlib.util
from pathlib import Path

CHANGED = {"cameras": "front,left,right", "image": "/sensors/{camera}/image_raw"}


def single():
    """semantic_depth.launch.py beside this file, as a module."""
    path = Path(__file__).absolute().with_name("semantic_depth.launch.py")
    spec = importlib.util.spec_from_file_location("semantic_depth_launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def generate_launch_description():
    """What `ros2 launch` calls."""
    from launch import LaunchDescription
    from launch.actions import OpaqueFunction

    base = single()
    return LaunchDescription([*base.declarations(CHANGED), OpaqueFunction(function=base.actions)])
