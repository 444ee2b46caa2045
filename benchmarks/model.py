"""The capacity model: what N nodes, U users and a share of local messages cost in each scheme, computed from what each step costs.

Strategy: a message, with its receipt, makes two pushes, and what these make each process do is counted in steps: turns of the reactor,
commits, writes, copies sent, taken and thrown away, and so on (`NODE`, `ROUTE_SERVER`, `REDIS`). What a step costs is measured
(`benchmarks.costs`); how many there are of each is computed here, and nothing is measured here.

Copies are exact: a push of the broadcast scheme goes to all other nodes, wherever its receiver is, since only they know who is there; one
of a routed scheme goes to the node of its receiver, or nowhere if that is the sender's own.

    copies taken for each push      broadcast N - 1          routed 1 - p
    thrown away, of these           N - 1 - (1 - p)          0

What is shared is not: the more a node has to do, the more messages share a turn, a commit and a frame to another node. So there is no one
cost of a message, and a busy node costs less for each than one that is idle. Three formulas say how many share:

    a turn, a commit    whatever comes while one lasts goes into the next: the mean batch k is a + exp(-a), where a is what comes in the
                        time of a batch of k. Of a queue whose gate closes at the begin of a batch that is the mean field: exact for
                        a = 0 and for large a, and a few per cent away between.
    frames to peers     m pushes of a batch, each for one of n nodes, need n (1 - (1 - 1/n)^m) frames: the occupancy of n boxes by m
                        balls, exact if receivers are everywhere alike.
    from a route server all of a turn in one frame for each node that has something in it

Where users keep a window of messages in flight, and all processes are busy all the time, batches are what is in flight: a message waits for
its commit, is in it, and then the same once more with its receipt, so a commit has a quarter of all that is in flight at its node. How many
turns there are for a commit, and how many packets of one user come together, is measured where all is local (`rounds` and `clump` of
`Costs`); users who write to two nodes are in two phases, so there are twice as many turns, and their packets come one by one.

Each process is taken to have a core of its own. Where several share one, they wait for each other, and batches grow (`sharing`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from benchmarks.clusters import REDIS_TABLE, Scheme

PUSHES = 2  #: of a message: its own and its receipt's
PACKETS = 4  #: of a message that a node sends to clients: accepted, the message, and the same of the receipt
READS = 2  #: of a message: its own and its receipt's
STAGES = 4  #: of a message in flight: it waits for a commit and is in it, and so does its receipt
ASKED = 3  #: users that a message's pushes are for: both for the message, one for the receipt
MOST_READ = 256  #: sockets that a node reads in one turn (`twisted_im.cork.AT_ONCE`)

#: A node's steps: name → what it is. The last two are per second, all others each time.
NODE = {
    "message": "all six packets of a message, where sender and receiver are on one node",
    "turn": "a turn of the reactor",
    "commit": "a transaction of the store",
    "write": "a write to a connection, and the read that answers it",
    "push": "a push that might leave its node: put in order with those of others, and looked up",
    "send": "a copy encoded and given to a link",
    "take": "a copy that came and was for somebody here",
    "waste": "a copy that came and was for nobody here",
    "ask": "a user looked for in Redis",
    "idle": "a node that has nothing to do, for each second",
    "link": "one end of a link, for each second",
}
ROUTE_SERVER = {
    "turn": "a turn of the reactor",
    "write": "a write to a link, and the read that answers it",
    "take": "a copy taken in, and its receiver looked up",
    "give": "a copy given out",
    "idle": "a route server that has nothing to do, for each second",
    "link": "one end of a link, for each second",
}
REDIS = {
    "ask": "a user looked for",
    "batch": "all questions of one turn of a node",
    "idle": "a Redis that nobody asks anything but to refresh, for each second and node",
}
#: What passes between processes, in bytes.
BYTES = {"copy": "a copy on one link", "ask": "a user looked for in Redis"}
STEPS = {"node": NODE, "route_server": ROUTE_SERVER, "redis": REDIS, "bytes": BYTES}

#: How many of each step, by part and step; for a message.
Work = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Costs:
    """What steps cost.

    Attributes:
        us: µs of CPU for each step (for "bytes": bytes), by part and step.
        commit_s: seconds that a transaction takes, whatever is in it: mostly the disk's.
        rounds: turns for each commit, of a node that is busy all the time and has no links.
        clump: packets of one user that come together on such a node, for each message of its window.
    """

    us: Mapping[str, Mapping[str, float]]
    commit_s: float
    rounds: float
    clump: float

    def of(self, work: Work, part: str) -> float:
        """What a part's steps cost together."""
        return sum(count * self.us[part].get(step, 0.0) for step, count in work[part].items())


@dataclass(frozen=True)
class Case:
    """What is asked: a scheme, so many nodes and users, and what share of the messages is local.

    Attributes:
        rate: messages a second of all users.
        window: messages that each user keeps in flight, all processes being busy; 0 for users who write when they like.
        sharing: cores for all processes; 0 for a core for each.
    """

    scheme: Scheme
    nodes: int
    users: int
    locality: float
    rate: float
    window: int = 0
    sharing: float = 0.0

    @property
    def clustered(self) -> bool:
        """Whether a message may leave its node at all."""
        return not self.scheme.alone and self.nodes > 1

    @property
    def local(self) -> float:
        """The share of the messages that is local indeed."""
        return self.locality if self.clustered else 1.0


@dataclass(frozen=True)
class Answer:
    """What comes out: all per message, unless it says otherwise.

    Attributes:
        work: the steps of all nodes together, of the route server and of Redis.
        node_us, route_server_us, redis_us: CPU of all nodes together, of the route server, of Redis.
        node_load, route_server_load, redis_load: the share of its core that one is busy.
        links: connections between processes, in all.
    """

    work: Work
    node_us: float
    route_server_us: float
    redis_us: float
    node_load: float
    route_server_load: float
    redis_load: float
    copies: float
    wasted: float
    bytes: float
    links: int

    @property
    def us(self) -> float:
        """CPU of all processes."""
        return self.node_us + self.route_server_us + self.redis_us

    @property
    def load(self) -> float:
        """The share of its core that the busiest process is busy."""
        return max(self.node_load, self.route_server_load, self.redis_load)


def copies(scheme: Scheme, nodes: int, locality: float) -> tuple[float, float]:
    """Copies that nodes take from others for each push, and those of them that are for nobody there. Exact."""
    if scheme.alone or nodes < 2:
        return 0.0, 0.0
    abroad = 1.0 - locality
    return (nodes - 1.0, nodes - 1.0 - abroad) if scheme.strategy == "broadcast" else (abroad, 0.0)


def occupied(boxes: float, balls: float) -> float:
    """Boxes that have something in them, when each ball falls into any of them; exact for whole numbers."""
    if boxes <= 1.0:
        return min(balls, max(boxes, 0.0))
    return min(balls, boxes * -math.expm1(balls * math.log1p(-1.0 / boxes)))


def batch(arrivals: float, fixed: float, each: float, most: float = math.inf) -> float:
    """The mean batch of a queue whose gate closes at the begin of each batch, and whose server waits for one when there is none.

    Args:
        arrivals: a second.
        fixed: seconds that a batch takes.
        each: seconds more for each in it.
        most: in a batch; also what it is when more comes than can be done.
    """
    if arrivals * each >= 1.0:
        return most
    low, high = 1.0, max(1.0, (arrivals * fixed + 1.0) / (1.0 - arrivals * each))
    for _ in range(60):  # a + exp(-a) - k falls from below 1 to 0 or less between these
        middle = (low + high) / 2
        came = arrivals * (fixed + each * middle)
        low, high = (middle, high) if came + math.exp(-came) > middle else (low, middle)
    return min(high, most)


def links(scheme: Scheme, nodes: int) -> int:
    """Connections between processes."""
    if scheme.alone or (nodes < 2 and not scheme.routed_by_server and scheme.table != REDIS_TABLE):
        return 0
    if scheme.routed_by_server:
        return nodes
    return nodes * (nodes - 1) // 2 + (nodes if scheme.table == REDIS_TABLE else 0)


def shared(case: Case) -> Work:
    """The steps that do not depend on batches: those of pushes, and those of each second."""
    scheme, count = case.scheme, case.nodes
    by_server = scheme.routed_by_server
    taken, wasted = copies(scheme, count, case.local)
    second = 1.0 / case.rate
    clustered = float(case.clustered)
    asks = float(scheme.table == REDIS_TABLE)  # one node asks too: another may have come
    sent = clustered if by_server else taken
    ends = 0.0 if scheme.alone else float(count) if by_server else float(count * (count - 1))
    return {
        "node": {
            "message": 1.0,
            "push": PUSHES * clustered,
            "send": PUSHES * sent,
            "take": PUSHES * (taken - wasted),
            "waste": PUSHES * wasted,
            "ask": PUSHES * asks,
            "idle": second * count,
            "link": second * ends,
        },
        "route_server": {
            "take": PUSHES * sent * by_server,
            "give": PUSHES * taken * by_server,
            "idle": second * by_server,
            "link": second * ends * by_server,
        },
        "redis": {"ask": PUSHES * asks, "idle": second * count * (scheme.table == REDIS_TABLE)},
        "bytes": {"copy": PUSHES * (taken + sent * by_server), "ask": PUSHES * asks},
    }


def predict(case: Case, costs: Costs) -> Answer:
    """What a message makes all processes do, and what that costs.

    Args:
        case: what is asked; with a rate that is more than the processes can do, a load comes out above 1.
        costs: of the steps.
    """
    work = shared(case)
    node, server, redis = work["node"], work["route_server"], work["redis"]
    count, rate, users = case.nodes, case.rate, max(case.users / case.nodes, 1.0)
    each = rate / count  # messages a second of one node
    by_server = case.scheme.routed_by_server and case.clustered
    if case.window:
        commits = each * min(READS, STAGES / (case.window * users))  # a second, of one node
    else:
        commits = READS * each / batch(READS * each, costs.commit_s, 0.0)
    mixed = 0.0 < case.local < 1.0  # packets of a user come together, unless they go two ways
    clump = max(costs.clump * case.window, 1.0) if case.window and not mixed else 1.0
    frames = 0.0  # a second, from one node
    if case.clustered:
        frames = commits * occupied(1 if by_server else count - 1, node["send"] * each / commits)
    node["commit"] = commits / each
    if redis["ask"]:
        known = users * (2.0 - case.local)  # its own, and those whom they write to elsewhere
        asked = commits / each * occupied(known, ASKED * each / commits / clump)
        node["ask"] = redis["ask"] = work["bytes"]["ask"] = asked
        redis["batch"] = commits / each
    node["turn"] = node["write"] = server["turn"] = server["write"] = 0.0
    for _ in range(12):  # batches make the costs, and costs make the batches
        spent = {part: rate * costs.of(work, part) / 1e6 for part in ("node", "route_server", "redis")}
        slow = 1.0
        if case.sharing:
            slow = 1.0 / max(0.05, 1.0 - sum(spent.values()) * (1 - 1 / (count + by_server)) / case.sharing)
        came = frames  # a second, at one node
        if by_server:
            arrivals, a_turn = count * frames, costs.us["route_server"]["turn"] / 1e6
            rest = max(spent["route_server"] - server["turn"] * rate * a_turn, 0.0) / arrivals
            size = batch(arrivals, slow * a_turn, slow * rest, MOST_READ)
            rounds = arrivals / size
            if case.scheme.strategy == "broadcast":
                out = count * (1.0 - float(count) ** -size)  # all but who has sent all of it
            else:
                out = occupied(count, server["give"] * rate / rounds)
            server["turn"], server["write"] = rounds / rate, rounds * out / rate
            came = rounds * out / count
        if case.window:
            turns = min(commits * costs.rounds * (1 + mixed) + came, READS * each + commits + came)
            turns = max(turns, READS * each / MOST_READ)
        else:
            events, a_turn = READS * each + commits + came, costs.us["node"]["turn"] / 1e6
            rest = max(spent["node"] - node["turn"] * rate * a_turn, 0.0) / count / events
            turns = events / batch(events, slow * a_turn, slow * rest, MOST_READ)
        node["turn"] = turns / each
        pushed = came if case.window else 0.0  # turns that write what others have sent, and not one's own commit
        local = case.local if pushed else 1.0
        written = pushed * occupied(users, (1 - local) * PUSHES * each / pushed / clump) if pushed else 0.0
        own = commits if case.window else turns
        written += own * occupied(users, (PACKETS - (1 - local) * PUSHES) * each / own / clump)
        node["write"] = (written + frames) / each
    return answer(case, work, costs)


def answer(case: Case, work: Work, costs: Costs) -> Answer:
    """What so much work costs."""
    us = {part: costs.of(work, part) for part in ("node", "route_server", "redis")}
    taken, wasted = copies(case.scheme, case.nodes, case.local)
    return Answer(
        work=work,
        node_us=us["node"],
        route_server_us=us["route_server"],
        redis_us=us["redis"],
        node_load=us["node"] * case.rate / case.nodes / 1e6,
        route_server_load=us["route_server"] * case.rate / 1e6,
        redis_load=us["redis"] * case.rate / 1e6,
        copies=taken,
        wasted=wasted,
        bytes=costs.of(work, "bytes"),
        links=links(case.scheme, case.nodes),
    )


def most(case: Case, costs: Costs, full: float = 1.0) -> tuple[float, Answer]:
    """The rate at which the busiest process is as busy as it may be, and what a message costs then.

    Args:
        case: what is asked; its rate is of no matter.
        full: how busy that is: 0.8 leaves a fifth.
    """

    def over(rate: float) -> float:
        return predict(replace(case, rate=rate), costs).load - full

    low, high = 0.0, 1.0
    below, above = -full, over(high)
    while above < 0:
        low, below, high = high, above, 4 * high
        above = over(high)
    for _ in range(60):  # between these, by a straight line (Illinois)
        rate = high - above * (high - low) / (above - below)
        here = over(rate)
        if abs(here) < 1e-5 * full:
            break
        if here > 0:
            high, above, below = rate, here, below / 2
        else:
            low, below, above = rate, here, above / 2
    else:
        rate = low
    return rate, predict(replace(case, rate=rate or 1e-9), costs)


def crossing(one: Mapping[int, float], other: Mapping[int, float]) -> float | None:
    """The number of nodes from which on one cost is above another; None if it never is. Between two numbers of nodes both are taken as
    straight lines in logarithms."""
    counts = sorted(set(one) & set(other))
    if counts and one[counts[0]] > other[counts[0]]:
        return float(counts[0])
    for near, far in pairwise(counts):
        before, after = math.log(one[near] / other[near]), math.log(one[far] / other[far])
        if before <= 0 < after:
            part = -before / (after - before)
            return math.exp(math.log(near) + part * (math.log(far) - math.log(near)))
    return None
