"""The managed node: states, the five services, transition events, as nav2's lifecycle manager and others drive them.

What rcl_lifecycle itself answers is asked of an rclpy.lifecycle node beside ours, and not written down here.
"""

import contextlib
import pathlib
import time

import numpy as np
import pytest
import tiny_model
from conftest import LIMIT_S, NAME, Peer, encode, picture, qos, until
from lifecycle_msgs.msg import State, Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState
from PIL import Image
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_srvs.srv import SetBool, Trigger

UNCONFIGURED, INACTIVE = State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE
ACTIVE, FINALIZED = State.PRIMARY_STATE_ACTIVE, State.PRIMARY_STATE_FINALIZED
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE
SHUTDOWN = {
    UNCONFIGURED: Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    INACTIVE: Transition.TRANSITION_INACTIVE_SHUTDOWN,
    ACTIVE: Transition.TRANSITION_ACTIVE_SHUTDOWN,
}


class Manager(Peer):
    """A client of the lifecycle services."""

    def __init__(self, under_test, outputs=("labels", "timing")):
        super().__init__(under_test, outputs)
        self.clients = {}
        self.events = []
        self.node.create_subscription(TransitionEvent, f"{NAME}/transition_event", self.events.append, qos())
        self.until(
            lambda: self.node.count_publishers(f"{NAME}/transition_event") > 0, "discovery of the node's events"
        )

    def start(self, kind, service, node=NAME, **fields):
        """Sends a request; returns its future."""
        client = self.clients.get((node, service))
        if client is None:
            client = self.clients[node, service] = self.node.create_client(kind, f"{node}/{service}")
            self.acquaint(client, kind, f"{node}/{service}")
        return client.call_async(kind.Request(**fields))

    def acquaint(self, client, kind, service):
        """Asks something harmless until it is answered.

        A client that sees the service may not be seen by it yet; the answer to its first request is then lost.
        """
        self.until(client.service_is_ready, f"discovery of {service}")
        # Empty lists, what is so already, or a transition that exists in no state.
        harmless = {ChangeState: {"transition": Transition(label="none")}, SetBool: {"data": True}}.get(kind, {})
        for limit_s in (2, 4, 8, 16, 32):
            future = client.call_async(kind.Request(**harmless))
            deadline = time.monotonic() + limit_s
            while time.monotonic() < deadline:
                self.spin()
                if future.done():
                    return
        pytest.fail(f"{service} does not answer:\n{self.under_test.log()[-3000:]}")

    def call(self, kind, service, node=NAME, **fields):
        future = self.start(kind, service, node, **fields)
        self.until(future.done, f"an answer of {node}/{service}")
        return future.result()

    def change(self, transition=0, label="", node=NAME):
        wanted = Transition(id=transition, label=label)
        return self.call(ChangeState, "change_state", node, transition=wanted).success

    def state(self, node=NAME):
        return self.call(GetState, "get_state", node).current_state

    def states(self, node=NAME):
        return self.call(GetAvailableStates, "get_available_states", node).available_states

    def transitions(self, node=NAME):
        return self.call(GetAvailableTransitions, "get_available_transitions", node).available_transitions

    def graph(self, node=NAME):
        return self.call(GetAvailableTransitions, "get_transition_graph", node).available_transitions

    def until_state(self, wanted):
        self.until(lambda: self.state().id == wanted, f"state {wanted}")

    def set_parameter(self, name, value):
        parameters = [Parameter(name, value=value).to_parameter_msg()]
        return self.call(SetParameters, "set_parameters", parameters=parameters).results[0]

    def is_subscribed(self):
        return self.images.get_subscription_count() > 0

    def poke(self):
        """An image, and its calibration: what takes subscriptions that have been given up off the graph."""
        message = picture(64, 32)
        message.header.stamp = self.stamp()
        self.infos.publish(CameraInfo(header=message.header))
        self.images.publish(message)
        self.spin_for(0.05)

    def until_unsubscribed(self):
        def gone():
            # The middleware's reader is let go of when the next image comes.
            self.poke()
            return not self.is_subscribed()

        self.until(gone, "the end of the node's subscription")


@pytest.fixture
def manage():
    with contextlib.ExitStack() as stack:

        def make(under_test, **keywords):
            manager = Manager(under_test, **keywords)
            stack.callback(manager.close)
            return manager

        yield make


@pytest.fixture
def reference():
    """An rclpy.lifecycle node in the manager's domain: rcl_lifecycle's own state machine."""
    with contextlib.ExitStack() as stack:

        def make(manager):
            node = LifecycleNode("reference", context=manager.context)
            manager.executor.add_node(node)
            stack.callback(node.destroy_node)
            return "/reference"

        yield make


def loops_on_white(times):
    """A tiny model's code that is so often at nothing for a white picture; a million times take about a second."""
    code = tiny_model.CODE.replace(
        "    r = torch.slice",
        f"""\
    h = torch.mean(x)
    if bool(torch.gt(h, 0.98)):
      for i in range({times}):
        h = torch.add(h, 1)
    else:
      pass
    r = torch.slice""",
    )
    # What has no use would not be computed.
    return code.replace("torch.slice(x, 1, 2, 3)", "torch.add(torch.slice(x, 1, 2, 3), torch.mul(h, 0))")


def seen(events):
    return [(e.start_state.label, e.transition.label, e.goal_state.label) for e in events]


def test_it_starts_by_itself(start_node, manage):
    node = start_node()
    manager = manage(node)
    manager.until_state(ACTIVE)
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))
    code, took_s = node.end()
    assert code == 0 and took_s < 2.0


def test_it_answers_as_rcl_lifecycle_does(start_node, manage, reference):
    manager = manage(start_node(autostart=False))
    other = reference(manager)
    services = dict(manager.node.get_service_names_and_types())
    for service in ("change_state", "get_state", "get_available_states", "get_available_transitions"):
        assert services[f"{NAME}/{service}"] == services[f"{other}/{service}"]
    assert services[f"{NAME}/get_transition_graph"] == services[f"{other}/get_transition_graph"]
    assert manager.states() == manager.states(other)
    assert len(manager.graph()) == 25 and manager.graph() == manager.graph(other)
    for transition in (None, CONFIGURE, ACTIVATE, DEACTIVATE, ACTIVATE, Transition.TRANSITION_ACTIVE_SHUTDOWN):
        if transition:
            assert manager.change(transition) and manager.change(transition, node=other)
        assert manager.state() == manager.state(other)
        assert manager.transitions() == manager.transitions(other)
        assert manager.graph() == manager.graph(other)
    assert manager.state().id == FINALIZED and manager.transitions() == []


def test_a_whole_life(start_node, manage, model):
    node = start_node(autostart=False, model_path=str(model))
    manager = manage(node)
    assert manager.state() == State(id=UNCONFIGURED, label="unconfigured")
    assert not manager.is_subscribed()
    assert node.log().count("loading") == 0

    assert manager.change(CONFIGURE)
    assert manager.state().id == INACTIVE
    assert node.log().count("loading") == 1
    manager.spin_for(0.5)
    assert not manager.is_subscribed(), "only an active node takes images"

    assert manager.change(ACTIVATE)
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))

    assert manager.change(DEACTIVATE)
    manager.until_unsubscribed()
    manager.spin_for(0.5)
    answered = len(manager.outputs["timing"].messages)
    for _ in range(5):
        manager.poke()
    manager.spin_for(0.5)
    assert len(manager.outputs["timing"].messages) == answered, "an inactive node answers nothing"

    # The model was kept.
    assert manager.change(label="activate")
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))
    assert node.log().count("loading") == 1
    assert manager.change(label="deactivate")

    # And then it is not.
    assert manager.change(CLEANUP)
    assert manager.state().id == UNCONFIGURED
    assert manager.change(CONFIGURE) and manager.change(ACTIVATE)
    assert node.log().count("loading") == 2
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))

    assert manager.change(label="shutdown")
    assert manager.state().id == FINALIZED
    manager.until_unsubscribed()
    # It lives on, answers questions, and can do nothing but end.
    assert manager.transitions() == []
    assert not manager.change(CONFIGURE)
    code, took_s = node.end()
    assert code == 0 and took_s < 2.0, node.log()[-3000:]


def test_a_configure_that_fails_leaves_no_publisher(start_node, manage, tmp_path):
    mask = tmp_path / "mask.png"
    node = start_node(autostart=False, ignore_mask=str(mask))
    manager = manage(node)
    for _ in range(2):
        assert not manager.change(CONFIGURE) and manager.state().id == UNCONFIGURED
    assert f"cannot configure: ignore_mask: {mask}: No such file" in node.log()
    pixels = np.zeros((16, 32), np.uint8)
    pixels[12:] = 255
    Image.fromarray(pixels).save(mask)
    assert manager.change(CONFIGURE)
    manager.until(lambda: manager.node.count_publishers(f"{NAME}/output/labels"), "the node's publisher")
    assert manager.node.count_publishers(f"{NAME}/output/labels") == 1
    assert manager.change(ACTIVATE)
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))


@pytest.mark.parametrize("way", [(), (CONFIGURE,), (CONFIGURE, ACTIVATE)])
def test_it_may_be_shut_down_and_ended_in_every_state(start_node, manage, way):
    node = start_node(autostart=False)
    manager = manage(node)
    for transition in way:
        assert manager.change(transition)
    state = manager.state().id
    for wrong in SHUTDOWN.values():
        if wrong != SHUTDOWN[state]:
            assert not manager.change(wrong), f"shutdown {wrong} is not that of state {state}"
    assert manager.state().id == state
    assert manager.change(SHUTDOWN[state])
    assert manager.state().id == FINALIZED
    assert node.end()[0] == 0


@pytest.mark.parametrize("way", [(), (CONFIGURE,)])
def test_a_signal_ends_it_before_it_is_active(start_node, manage, way):
    node = start_node(autostart=False)
    manager = manage(node)
    for transition in way:
        assert manager.change(transition)
    code, took_s = node.end()
    assert code == 0 and took_s < 2.0, node.log()[-3000:]


def test_nav2s_lifecycle_manager(start_node, manage):
    """Its calls for startup, pause, resume, reset and shutdown: change_state by id, then get_state must agree."""
    manager = manage(start_node(autostart=False))
    goals = {
        CONFIGURE: INACTIVE,
        CLEANUP: UNCONFIGURED,
        ACTIVATE: ACTIVE,
        DEACTIVATE: INACTIVE,
        Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: FINALIZED,
    }

    def change(*transitions):
        for transition in transitions:
            assert manager.change(transition), transition
            assert manager.state().id == goals[transition]

    startup, pause, resume, reset = (CONFIGURE, ACTIVATE), (DEACTIVATE,), (ACTIVATE,), (DEACTIVATE, CLEANUP)
    shutdown = (DEACTIVATE, CLEANUP, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    for command in (startup, pause, resume, reset, startup):
        change(*command)
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))
    change(*shutdown)


def test_wrong_transitions_are_refused_and_change_nothing(start_node, manage):
    manager = manage(start_node(autostart=False))
    labels = ("configure", "cleanup", "activate", "deactivate", "shutdown", "transition_success", "create", "Configure")
    steps = (CONFIGURE, ACTIVATE, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    for state, step in zip((UNCONFIGURED, INACTIVE, ACTIVE, FINALIZED), (*steps, None)):
        assert manager.state().id == state
        possible = manager.transitions()
        ids, names = {t.transition.id for t in possible}, {t.transition.label for t in possible}
        for wrong in set(range(0, 100)) - ids:
            assert not manager.change(wrong), f"transition {wrong} in state {state}"
        for wrong in set(labels) - names:
            # The label counts, whatever the id.
            assert not manager.change(min(ids, default=0), wrong), f"transition {wrong} in state {state}"
        assert manager.state().id == state
        if step:
            assert manager.change(step)


def test_questions_are_answered_and_requests_refused_while_it_configures(start_node, manage):
    manager = manage(start_node(autostart=False))
    # The clients are there.
    manager.state()
    manager.transitions()
    configured = manager.start(ChangeState, "change_state", transition=Transition(id=CONFIGURE))
    answers, transitions = [], []
    manager.until(lambda: manager.state().id != UNCONFIGURED, "the begin of the transition")
    refused = [
        manager.start(ChangeState, "change_state", transition=wanted)
        for wanted in (
            Transition(id=CONFIGURE),
            Transition(id=Transition.TRANSITION_ON_CONFIGURE_SUCCESS),
            Transition(label="transition_success"),
            Transition(label="shutdown"),
        )
    ]
    deadline = time.monotonic() + LIMIT_S
    while not configured.done() and time.monotonic() < deadline:
        answers.append(manager.state())
        if not transitions:
            transitions = manager.transitions()
    assert configured.done() and configured.result().success
    manager.until(lambda: all(future.done() for future in refused), "the refusals")
    assert not any(future.result().success for future in refused)
    assert State(id=State.TRANSITION_STATE_CONFIGURING, label="configuring") in answers
    labels = [t.transition.label for t in transitions]
    assert labels == ["transition_success", "transition_failure", "transition_error"]
    assert manager.state().id == INACTIVE


def test_classes_are_not_changed_while_a_model_loads(start_node, manage, model):
    """They are not known yet: one that the model lacks would be found when it is loaded, and end the loading."""
    # The largest one that is installed: it has to load for longer than what is done meanwhile.
    node = start_node(autostart=False, model_path=str(model.parents[1] / "street_1024x512"))
    manager = manage(node)
    assert len(manager.call(SetParameters, "set_parameters").results) == 0  # the client is there
    configured = manager.start(ChangeState, "change_state", transition=Transition(id=CONFIGURE))
    manager.until(lambda: "loading" in node.log(), "the begin of the loading")
    result = manager.set_parameter("points.classes", ["zebra"])
    assert not result.successful and "points.classes: a model is loading" in result.reason, result.reason
    manager.until(configured.done, "the end of the loading")
    assert configured.result().success, node.log()[-3000:]
    result = manager.set_parameter("points.classes", ["zebra"])
    assert not result.successful and 'no class "zebra"' in result.reason, result.reason
    assert manager.set_parameter("points.classes", ["car"]).successful


def counts(manager):
    values = manager.status("input")[2]
    return {name: int(values[f"Frames {name}"]) for name in ("received", "answered", "dropped", "refused", "skipped")}


def settled(manager):
    """The counts, once no frame waits or is computed."""

    def add_up():
        now = counts(manager)
        return now if now["received"] == sum(now.values()) - now["received"] else None

    return manager.until(add_up, "counts that add up")


def keep_busy(manager, received):
    """Sends white pictures until one is computed and one waits; `received` had come before. Returns their stamps."""
    white = encode(np.full((32, 64, 3), 255, np.uint8), "rgb8")
    sent = []

    def have_arrived():
        sent.append(manager.send(white))
        manager.spin_for(0.2)
        return counts(manager)["received"] >= received + 2

    manager.until(have_arrived, "a frame that is computed and one that waits")
    return sent


@pytest.mark.parametrize("way", ["deactivated", "disabled"])
def test_what_is_computed_meanwhile_is_not_published(start_node, manage, tmp_path, way):
    def go_on(answering):
        if way == "disabled":
            assert manager.call(SetBool, "enable", data=answering).success
        else:
            assert manager.change(ACTIVATE if answering else DEACTIVATE)

    model = tiny_model.write(tmp_path / "model", code=loops_on_white(1_000_000))
    manager = manage(start_node(autostart=False, model_path=str(model), diagnostics_rate_hz=10.0))
    assert manager.change(CONFIGURE) and manager.change(ACTIVATE)
    assert manager.call(SetBool, "enable", data=True).success  # the client is there
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))
    before = settled(manager)
    sent = keep_busy(manager, before["received"])
    go_on(False)
    after = settled(manager)
    manager.spin_for(0.5)
    assert after["answered"] == before["answered"] and after["skipped"] > before["skipped"], (before, after)
    assert after["refused"] == before["refused"], (before, after)
    assert not any(manager.answers(stamp) for stamp in sent)
    go_on(True)
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))


def test_nothing_is_sent_once_it_is_inactive(start_node, manage, tiny):
    """To compress so large a depth takes far longer than a deactivation waits for an output that is being sent."""
    large = {"output_size": "4096x2048", "png_level": 9, "diagnostics_rate_hz": 10.0}
    manager = manage(start_node(autostart=False, model_path=str(tiny), **large), outputs=("labels",))
    # By the sender's clock, as the events' are: what was sent before may arrive after.
    sent_ns = []
    manager.node.create_subscription(
        CompressedImage,
        f"{NAME}/output/depth/compressed",
        lambda _, info: sent_ns.append(info["source_timestamp"]),
        qos(),
    )
    assert manager.change(CONFIGURE) and manager.change(ACTIVATE)
    manager.until(manager.is_subscribed, "the node's subscription")

    def is_heard():
        manager.ask(picture(64, 32), ("labels",))
        return sent_ns

    manager.until(is_heard, "a compressed depth")
    end = ("deactivating", "transition_success", "inactive")
    for _ in range(3):
        # Labels go out before the depth is compressed.
        manager.ask(picture(64, 32), ("labels",))
        manager.events.clear()
        assert manager.change(DEACTIVATE)
        manager.until(lambda: seen(manager.events)[-1:] == [end], "the event")
        settled(manager)
        manager.spin_for(0.5)
        assert max(sent_ns) <= manager.events[-1].timestamp, "a depth was sent by an inactive node"
        assert manager.change(ACTIVATE)
        manager.until(manager.is_subscribed, "the node's subscription")


def test_every_step_is_published(start_node, manage):
    manager = manage(start_node(autostart=False))
    assert not manager.change(ACTIVATE)
    for transition in (CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN):
        assert manager.change(transition)
    done = "transition_success"
    expected = [
        ("unconfigured", "configure", "configuring"),
        ("configuring", done, "inactive"),
        ("inactive", "activate", "activating"),
        ("activating", done, "active"),
        ("active", "deactivate", "deactivating"),
        ("deactivating", done, "inactive"),
        ("inactive", "cleanup", "cleaningup"),
        ("cleaningup", done, "unconfigured"),
        ("unconfigured", "shutdown", "shuttingdown"),
        ("shuttingdown", done, "finalized"),
    ]
    manager.until(lambda: len(manager.events) >= len(expected), "the events")
    assert seen(manager.events) == expected
    known = {(t.start_state.id, t.transition.id, t.goal_state.id) for t in manager.graph()}
    assert all((e.start_state.id, e.transition.id, e.goal_state.id) in known for e in manager.events)
    stamps = [e.timestamp for e in manager.events]
    assert stamps == sorted(stamps) and abs(stamps[-1] - time.time_ns()) < LIMIT_S * 1e9


def test_a_model_that_is_missing_leaves_it_unconfigured(start_node, manage, model, tmp_path):
    missing = tmp_path / "absent" / "model.yaml"
    node = start_node(autostart=False, model_path=str(missing))
    manager = manage(node)
    assert not manager.change(CONFIGURE)
    assert manager.state().id == UNCONFIGURED
    node.check()
    node.says(str(missing))
    manager.until(lambda: len(manager.events) >= 2, "the events")
    assert seen(manager.events) == [
        ("unconfigured", "configure", "configuring"),
        ("configuring", "transition_failure", "unconfigured"),
    ]
    # The reason can be put right without a restart.
    result = manager.set_parameter("model_path", str(model))
    assert result.successful, result.reason
    assert manager.change(CONFIGURE) and manager.change(ACTIVATE)
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))


def held(manager):
    """What the node's process holds: threads, resident MiB; and how often it is in the graph."""
    folder = pathlib.Path(f"/proc/{manager.under_test.process.pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    graph = manager.node
    subscriptions = [
        len(graph.get_subscriptions_info_by_topic(f"{NAME}/input/{topic}")) for topic in ("image", "camera_info")
    ]
    publishers = [len(graph.get_publishers_info_by_topic(f"{NAME}/output/{topic}")) for topic in ("labels", "timing")]
    return int(status["Threads"]), int(status["VmRSS"].split()[0]) / 1024, subscriptions, publishers


def test_many_activations_leave_nothing_behind(start_node, manage):
    """Without images, without calibrations, which would take a subscription off the graph; then with them."""
    manager = manage(start_node(autostart=False))
    assert manager.change(CONFIGURE)
    for turn in range(20):
        assert manager.change(ACTIVATE)
        if turn == 0:
            manager.until(manager.is_subscribed, "the node's subscription")
            manager.ask(picture(64, 32))
            before = held(manager)
        elif turn >= 17:
            manager.until(manager.is_subscribed, "the node's subscription")
            manager.ask(picture(64, 32))
        assert manager.change(DEACTIVATE)
    # An inactive node may keep one of a silent topic until its next message.
    manager.spin_for(0.3)
    threads, mib, subscriptions, publishers = held(manager)
    assert all(count <= 2 for count in subscriptions), subscriptions
    assert publishers == before[3] == [1, 1]
    assert threads <= before[0], (threads, before)
    assert mib < before[1] + 30, (mib, before)
    manager.until_unsubscribed()
    assert manager.change(ACTIVATE)
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))


def test_many_configurations_leave_no_threads_and_topics_behind(start_node, manage):
    manager = manage(start_node(autostart=False))
    for turn in range(4):
        assert manager.change(CONFIGURE) and manager.change(ACTIVATE)
        manager.until(manager.is_subscribed, "the node's subscription")
        manager.ask(picture(64, 32))
        if turn == 0:
            before = held(manager)
        last = held(manager)
        assert manager.change(DEACTIVATE) and manager.change(CLEANUP)
        manager.until(
            lambda: not manager.node.get_publishers_info_by_topic(f"{NAME}/output/labels"), "the end of the topics"
        )
    assert last[0] <= before[0] and last[3] == before[3], (last, before)


def test_the_model_is_exchanged_where_there_is_one(start_node, manage):
    manager = manage(start_node(autostart=False))
    response = manager.call(Trigger, "reload_model")
    assert not response.success and "configure the node first" in response.message
    assert manager.change(CONFIGURE)
    response = manager.call(Trigger, "reload_model")
    assert response.success and "sha256" in response.message, "inactive, with a model"
    assert manager.state().id == INACTIVE
    assert manager.change(ACTIVATE)
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))
    # That a reload failed is no concern of a node that has let go of the model.
    assert manager.set_parameter("model_path", "/nonexistent/model.yaml").successful
    assert not manager.call(Trigger, "reload_model").success
    level, message, _ = manager.status("model")
    assert level == b"\x01" and "~/reload_model failed" in message
    assert manager.change(DEACTIVATE) and manager.change(CLEANUP)
    assert manager.status("model")[0] == b"\x00"
    assert not manager.call(Trigger, "reload_model").success


def own_memory(node):
    """The shared memory that a node has made; asked before anybody else is in its domain."""
    return until(lambda: {p for p in node.segments() if p.exists() and p.stat().st_size > 1 << 20}, "its segment")


@pytest.mark.parametrize("way", [CLEANUP, SHUTDOWN[INACTIVE]])
def test_a_signal_ends_it_while_a_model_loads_that_nobody_waits_for(start_node, manage, model, way, tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    # The largest one that is installed: it has to load for longer than what is done meanwhile.
    node = start_node(autostart=False, model_path=str(model.parents[1] / "street_1024x512"))
    own = own_memory(node)
    manager = manage(node)
    assert manager.change(CONFIGURE)
    client = manager.node.create_client(Trigger, f"{NAME}/reload_model")
    manager.until(client.service_is_ready, "the service")
    client.call_async(Trigger.Request())
    manager.until(lambda: "loading the model anew" in node.log(), "the begin of the reload")
    assert manager.change(way)
    code, took_s = node.end()
    assert code == 0 and took_s < 2.0, node.log()[-3000:]
    (file,) = (tmp_path / "log").glob(f"semantic_depth_node_{node.process.pid}_*.log")
    written = file.read_text()
    for line in ("loading the model anew", "ending", "ending while a model loads"):
        assert line in node.log() and line in written, f"`{line}` is not in the log file: {written}"
    assert not any(path.exists() for path in own), "its shared memory is left behind"


def test_a_signal_ends_it_while_a_model_loads_and_images_are_answered(start_node, manage, model, tmp_path):
    slow = tiny_model.write(tmp_path / "model", code=loops_on_white(300_000))
    node = start_node(autostart=False, model_path=str(slow), diagnostics_rate_hz=10.0)
    own = own_memory(node)
    manager = manage(node)
    assert manager.change(CONFIGURE) and manager.change(ACTIVATE)
    manager.until(manager.is_subscribed, "the node's subscription")
    manager.ask(picture(64, 32))
    # The largest one that is installed: it has to load for longer than what is done meanwhile.
    result = manager.set_parameter("model_path", str(model.parents[1] / "street_1024x512"))
    assert result.successful, result.reason
    client = manager.node.create_client(Trigger, f"{NAME}/reload_model")
    manager.until(client.service_is_ready, "the service")
    keep_busy(manager, settled(manager)["received"])
    client.call_async(Trigger.Request())
    manager.until(lambda: "loading the model anew" in node.log(), "the begin of the reload")
    code, _ = node.end()
    assert code == 0, node.log()[-3000:]
    assert "ending while a model loads" in node.log()
    assert not any(path.exists() for path in own), "its shared memory is left behind"


def test_build_only_ended_by_a_signal_leaves_nothing_behind(start_node, model):
    node = start_node(build_only=True, model_path=str(model.parents[1] / "street_1024x512"))
    until(lambda: "build_only: loading" in node.log(), "the begin of the load")
    own = own_memory(node)
    code, took_s = node.end()
    assert code == 0 and took_s < 2.0, node.log()[-3000:]
    assert "ending while a model loads" in node.log()
    assert not any(path.exists() for path in own), "its shared memory is left behind"
