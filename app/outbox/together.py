"""Together: what several threads want done at the same time is done by one of them, for all.

The first one in works; what the others bring meanwhile waits and is taken as one when it is through. So
somebody who is alone never waits, and the more come, the more one turn does.

Callers who go on and on come back one by one, and each would find the place empty. So where the last two
turns had many, the next one waits for as many, for a few milliseconds at most.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

#: Longest time that a turn waits for those who are expected, s.
GATHER_S = 0.005

Wish = TypeVar("Wish")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Waiting(Generic[Wish, Result]):
    wish: Wish
    is_done: bool = False
    result: Result | None = None
    error: BaseException | None = None


class Together(Generic[Wish, Result]):
    """A place where threads of one process meet.

    work: does what is wanted, all or none, and gives a result for each in the same order; what it raises is
    raised at everybody whose wish was among them. most: wishes of one turn.
    """

    def __init__(self, work: Callable[[Sequence[Wish]], Sequence[Result]], most: int) -> None:
        self._work = work
        self._most = most
        self._waiting: deque[_Waiting[Wish, Result]] = deque()
        self._turn = threading.Lock()
        self._arrival = threading.Condition()
        #: How many were there in the last turn, those included who came during it, and in the one before.
        self._crowds = (1, 1)

    def __len__(self) -> int:
        """How many wait for a turn."""
        return len(self._waiting)

    def do(self, wish: Wish) -> Result:
        """Have it done, with whatever else is wanted just now. Raises what `work` raises."""
        mine: _Waiting[Wish, Result] = _Waiting(wish)
        self._waiting.append(mine)
        if len(self._waiting) >= min(self._crowds) > 1:
            with self._arrival:
                self._arrival.notify()
        with self._turn:
            # In the order in which they came, so that nobody waits longer than a turn or two.
            while not mine.is_done:
                self._gather()
                self._take_turn()
        if mine.error is not None:
            raise mine.error
        return mine.result  # type: ignore[return-value]  # a wish that is done has one

    def _gather(self) -> None:
        expected = min(self._crowds)
        if len(self._waiting) < expected:
            with self._arrival:
                self._arrival.wait_for(lambda: len(self._waiting) >= expected, GATHER_S)

    def _take_turn(self) -> None:
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
        try:
            results = self._work([one.wish for one in taken])
        except BaseException as error:
            for one in taken:
                one.error = error
        else:
            for one, result in zip(taken, results, strict=True):
                one.result = result
        finally:
            self._crowds = (len(taken) + len(self._waiting), self._crowds[0])
            for one in taken:
                one.is_done = True
