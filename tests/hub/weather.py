"""Bad weather for the local Hub: a share of all requests goes wrong, in every way in which they do at the real one.

Which request meets what is drawn from a seed, one draw a request, so a test that fails can be run again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

#: What can happen to a request, before the Hub has done what it was asked to and after.
BEFORE = ("429", "500", "503", "cut", "slow")
AFTER = ("late 500", "late cut", "cut in the answer", "silence")


@dataclass
class Weather:
    """What happens to requests.

    Attributes:
        share: of all requests, how many go wrong.
        slow, silence: seconds that a slow answer takes, and after which none has come.
        kill_at: the number of the request (from 1) at which `kill` is called, before or after it has been done.
        met: what has happened, in order.
    """

    seed: int
    share: float = 0.1
    slow: float = 0.4
    silence: float = 6.0
    kill_at: int = 0
    kill: Callable[[], None] = lambda: None
    met: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._seen = 0

    def draw(self) -> str | None:
        """What this request meets: one of the above, `kill`, `late kill`, or nothing."""
        with self._lock:
            self._seen += 1
            if self._seen == self.kill_at:
                found = self._random.choice(("kill", "late kill"))
            elif self._random.random() < self.share:
                found = self._random.choice(BEFORE + AFTER)
            else:
                return None
            self.met.append(found)
            return found
