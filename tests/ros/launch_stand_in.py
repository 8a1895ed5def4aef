"""A stand-in for what our launch files import of the packages `launch` and `launch_ros`, which PyPI does not have.

With it the launch files' own lines are executed from `generate_launch_description()` on. It keeps what it is told, and
refuses a keyword that the real class does not have. It is no launch system: it expands nothing and starts nothing. What
the real one makes of the same is tested in test_launch_system.py, where it is installed.
"""

import sys
import types

# Keywords of the real ones in ROS 2 Jazzy.
_ACTION = {"condition"}
_PROCESS = _ACTION | {
    *("name", "prefix", "cwd", "env", "additional_env", "shell", "emulate_tty", "sigterm_timeout", "sigkill_timeout"),
    *("output", "output_format", "cached_output", "log_cmd", "on_exit"),
    *("respawn", "respawn_delay", "respawn_max_retries"),
}
_NODE = _PROCESS | {
    *("package", "executable", "namespace", "exec_name", "parameters", "remappings", "ros_arguments", "arguments"),
}


class _Kept:
    """What was said: attributes."""

    known, needed = frozenset(), frozenset()

    def __init__(self, **said):
        wrong = sorted(set(said) - self.known) + sorted(self.needed - set(said))
        if wrong:
            raise TypeError(f"{type(self).__name__}: unknown or missing keywords {wrong}")
        self.said = said

    def __getattr__(self, name):
        try:
            return self.__dict__["said"][name]
        except KeyError:
            raise AttributeError(name) from None


class DeclareLaunchArgument(_Kept):
    known, needed = _ACTION | {"default_value", "description", "choices"}, {"default_value"}

    def __init__(self, name, **said):
        super().__init__(**said)
        self.name = name


class OpaqueFunction(_Kept):
    known, needed = _ACTION | {"function", "args", "kwargs"}, {"function"}


class ExecuteProcess(_Kept):
    known, needed = _PROCESS | {"cmd"}, {"cmd"}


class Node(_Kept):
    known, needed = _NODE, {"executable"}


class ComposableNodeContainer(_Kept):
    known, needed = _NODE | {"composable_node_descriptions"}, {"executable", "name", "namespace"}


class ComposableNode(_Kept):
    known = {"package", "plugin", "name", "namespace", "parameters", "remappings", "extra_arguments", "condition"}
    needed = {"package", "plugin"}


class LaunchDescription:
    def __init__(self, entities):
        self.entities = entities


def install(monkeypatch):
    """Makes `import launch` and the like find the stand-in, until the test ends."""
    for name, classes in {
        "launch": (LaunchDescription,),
        "launch.actions": (DeclareLaunchArgument, ExecuteProcess, OpaqueFunction),
        "launch_ros": (),
        "launch_ros.actions": (ComposableNodeContainer, Node),
        "launch_ros.descriptions": (ComposableNode,),
    }.items():
        module = types.ModuleType(name)
        vars(module).update({kind.__name__: kind for kind in classes})
        monkeypatch.setitem(sys.modules, name, module)


def run(description, arguments, outer=""):
    """The actions that a description comes to with arguments by name, below a pushed namespace."""
    context = types.SimpleNamespace(launch_configurations={**({"ros_namespace": outer} if outer else {}), **arguments})
    actions = []
    for entity in description.entities:
        if isinstance(entity, DeclareLaunchArgument):
            context.launch_configurations.setdefault(entity.name, entity.default_value)
        elif isinstance(entity, OpaqueFunction):
            actions += entity.function(context)
        else:
            actions.append(entity)
    return actions
