"""The bond with a lifecycle manager, on `bond/Status`, against the end that nav2's lifecycle_manager holds (bondcpp).

bondcpp itself is C++ on rclcpp and not to be had here: `Sister` has its states and transitions (BondSM) in Python.
"""

import signal
import time
import uuid

import pytest
from bond.msg import Status
from conftest import NAME, qos
from lifecycle_msgs.msg import Transition
from test_lifecycle import ACTIVE, Manager

ID = NAME.strip("/")
WAITING, ALIVE, AWAITING_DEATH, DEAD = "waiting for sister", "alive", "awaiting sister's death", "dead"


class Sister:
    """A manager's end of a bond: its states are bondcpp's."""

    def __init__(self, peer, timeout_s=4.0, period_s=0.1, name=ID):
        self.peer, self.id, self.instance = peer, name, str(uuid.uuid4())
        self.timeout_s, self.period_s = timeout_s, period_s
        self.state, self.heard, self.others = WAITING, [], []
        self.sister_died_first = False
        self.publisher = peer.node.create_publisher(Status, "/bond", qos(depth=5))
        self.subscription = peer.node.create_subscription(Status, "/bond", self.hear, qos(depth=100))
        self.timer = peer.node.create_timer(period_s, self.beat)
        peer.until(lambda: self.publisher.get_subscription_count() > 1, "discovery of the node's end")

    def hear(self, status):
        if status.instance_id == self.instance:
            return
        if status.id != self.id:
            self.others.append(status)
            return
        self.heard.append((time.monotonic(), status))
        if status.active:
            self.state = {WAITING: ALIVE}.get(self.state, self.state)
        else:
            self.sister_died_first |= self.state in (WAITING, ALIVE)
            self.state = DEAD
            if self.sister_died_first:
                self.say(False)

    def beat(self):
        if self.state in (WAITING, ALIVE):
            self.say(True)
        elif self.state == AWAITING_DEATH:
            self.say(False)

    def say(self, active):
        status = Status(id=self.id, instance_id=self.instance, active=active)
        status.header.stamp = self.peer.stamp()
        status.heartbeat_timeout, status.heartbeat_period = self.timeout_s, self.period_s
        self.publisher.publish(status)

    def die(self):
        self.state = {ALIVE: AWAITING_DEATH, WAITING: DEAD}.get(self.state, self.state)
        self.say(False)

    def until_state(self, wanted, limit_s=60.0):
        self.peer.until(lambda: self.state == wanted, f"the bond's state {wanted}", limit_s)

    def close(self):
        self.peer.node.destroy_timer(self.timer)
        self.peer.node.destroy_subscription(self.subscription)
        self.peer.node.destroy_publisher(self.publisher)


@pytest.fixture
def managed(start_node):
    """A node that its manager has activated."""
    manager = Manager(start_node(autostart=False))
    assert manager.change(Transition.TRANSITION_CONFIGURE) and manager.change(Transition.TRANSITION_ACTIVATE)
    yield manager
    manager.close()


def test_an_activated_node_answers_its_manager(managed):
    sister = Sister(managed)
    # nav2 waits for half of its timeout, which is 4 s.
    sister.until_state(ALIVE, 2.0)
    managed.spin_for(1.0)
    before = len(sister.heard)
    managed.spin_for(3.0)
    # Every 0.1 s as the manager itself; the machine may be busy.
    assert 15 <= len(sister.heard) - before <= 32
    for _, status in sister.heard:
        assert status.active and status.id == ID and status.header.stamp.sec > 0
        assert (status.heartbeat_timeout, round(status.heartbeat_period, 3)) == (4.0, 0.1)
    assert len({status.instance_id for _, status in sister.heard}) == 1
    assert "bonded with the lifecycle manager: a heartbeat every 100 ms" in managed.under_test.log()


def test_nothing_is_said_where_nobody_asks(managed):
    stranger = Sister(managed, name="controller_server")
    managed.spin_for(1.0)
    assert stranger.state == WAITING and stranger.heard == stranger.others == []
    # A manager may name the node with its namespace.
    sister = Sister(managed, name=NAME)
    sister.until_state(ALIVE)
    assert stranger.state == WAITING


def test_a_node_that_is_not_active_is_not_bonded(start_node):
    manager = Manager(start_node(autostart=False))
    sister = Sister(manager)
    manager.spin_for(1.0)
    assert manager.change(Transition.TRANSITION_CONFIGURE)
    manager.spin_for(1.0)
    assert sister.state == WAITING and sister.heard == []
    assert manager.change(Transition.TRANSITION_ACTIVATE)
    sister.until_state(ALIVE)
    assert manager.change(Transition.TRANSITION_DEACTIVATE)
    sister.until_state(DEAD)
    sister.close()
    # A manager makes a new end with each activation.
    assert manager.change(Transition.TRANSITION_ACTIVATE)
    again = Sister(manager)
    again.until_state(ALIVE)
    manager.close()


def test_a_manager_that_ends_its_bond_is_confirmed(managed):
    sister = Sister(managed)
    sister.until_state(ALIVE)
    sister.die()
    assert sister.state == AWAITING_DEATH
    sister.until_state(DEAD)
    assert not sister.sister_died_first
    # What was on its way may still come; then there is silence.
    managed.spin_for(0.5)
    count = len(sister.heard)
    managed.spin_for(1.0)
    assert len(sister.heard) == count
    assert [status.active for _, status in sister.heard].count(False) == 1
    managed.under_test.says("the lifecycle manager has ended its bond")
    assert managed.state().id == ACTIVE


def test_a_manager_that_falls_silent_is_given_up_and_may_come_back(managed):
    sister = Sister(managed, timeout_s=1.0)
    sister.until_state(ALIVE)
    managed.node.destroy_timer(sister.timer)
    managed.until(lambda: not sister.heard[-1][1].active, "the end of a bond without a manager")
    managed.under_test.says("the lifecycle manager has said nothing for 1.")
    sister.close()
    assert managed.state().id == ACTIVE
    again = Sister(managed)
    again.until_state(ALIVE)


def test_a_node_that_ends_says_so_and_one_that_hangs_is_not_heard(managed):
    sister = Sister(managed)
    sister.until_state(ALIVE)
    managed.under_test.process.send_signal(signal.SIGSTOP)
    managed.spin_for(0.5)
    count = len(sister.heard)
    managed.spin_for(1.0)
    assert len(sister.heard) == count
    managed.under_test.process.send_signal(signal.SIGCONT)
    managed.until(lambda: len(sister.heard) > count, "heartbeats again")
    managed.under_test.process.send_signal(signal.SIGINT)
    sister.until_state(DEAD, 10.0)
    assert managed.under_test.wait() == 0
