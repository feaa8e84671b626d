"""A figure: one line of the table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the table. `at_most`: smaller is better; `ratio` is to the yardstick, if there is one."""

    engine: str
    name: str
    unit: str
    measured: float
    wanted: float | None
    at_most: bool
    ratio: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether it is as wanted; None if nothing is. Rates are wanted as a multiple of the yardstick."""
        if self.wanted is None:
            return None
        value = self.measured if self.ratio is None else self.ratio
        return value <= self.wanted if self.at_most else value >= self.wanted

    def show(self) -> None:
        """Print it."""
        wanted = "" if self.wanted is None else f"{'<=' if self.at_most else '>='} {self.wanted:g}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f} x"
        verdict = {None: "", True: "met", False: "MISSED"}[self.is_met]
        measured = f"{self.measured:,.2f}" if self.measured < 100 else f"{self.measured:,.0f}"
        cells = f"{measured:>9} {self.unit:<4} {ratio:>7} {wanted:>8} {verdict}"
        print(f"{self.engine:<10} {self.name:<58} {cells}", flush=True)
