"""The gate of promotion: whether a candidate's weights restore *select* better than its rivals do.

Comes in: one figure per image of the candidate, of each baseline and of the champion. Goes out: a `Verdict`, also as
text. An interval over images holds for these weights only, and the text says so. May not import torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pipeline.config.choices import MARGIN_DB, METRICS
from pipeline.evaluation.intervals import Figures, Interval, bootstrap_interval

PASSED, TOO_LITTLE, UNCLEAR, WORSE = "better", "better, but by less than the margin", "no difference is shown", "worse"


@dataclass(frozen=True)
class Comparison:
    """A candidate and a rival on the same degraded images."""

    rival: str
    gain: Interval  # mean difference over images, in the objective's unit; above 0 where the candidate is better
    outcome: str  # one of PASSED, TOO_LITTLE, UNCLEAR, WORSE


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate passes the gate, and why."""

    candidate: str
    metric: str
    margin: float
    images: int
    comparisons: tuple[Comparison, ...]
    incomparable: str = ""  # why the champion could not be compared
    configurations: Comparison | None = None  # over seeds too, where both are replicated; it decides nothing

    @cached_property
    def passed(self) -> bool:
        return not self.incomparable and all(each.outcome == PASSED for each in self.comparisons)

    @property
    def least(self) -> Comparison:
        """The comparison with the champion, which is last, else the one with the strongest baseline."""
        *baselines, last = self.comparisons
        return last if last.rival.startswith("version ") else min([*baselines, last], key=lambda c: c.gain.mean)

    def shown(self, comparison: Comparison) -> str:
        """A gain with its interval: ``0.142 dB [0.120, 0.164]``."""
        form, gain = METRICS[self.metric], comparison.gain
        unit = " dB" if form.unit == "dB" else ""
        return f"{gain.mean:+.{form.decimals + 1}f}{unit} {gain.shown(form.decimals + 1)}"

    @property
    def about_configurations(self) -> str:
        """What can be said of configurations, beyond these weights."""
        if self.configurations is None:
            return "the intervals are over images, so they hold for these weights; another seed may differ"
        found = self.configurations
        what = "better" if found.outcome == PASSED else found.outcome
        return f"over seeds and images, this configuration against that of {found.rival}: {self.shown(found)}, {what}"

    @property
    def rule(self) -> str:
        """What it takes to pass."""
        unit = " dB" if METRICS[self.metric].unit == "dB" else ""
        least = f", and every mean be at least {self.margin:g}{unit}" if self.margin else ""
        return f"every interval must lie above 0{least}"

    @property
    def text(self) -> str:
        """The verdict in one line."""
        wanted = [each for each in self.comparisons if self.passed or each.outcome != PASSED]
        parts = [f"{each.rival} ({self.shown(each)}: {each.outcome})" for each in wanted]
        parts += [self.incomparable] if self.incomparable else []
        what = "better" if self.passed else "not shown to be better"
        than = "than " if self.passed or wanted else "than the champion: "
        return f"these weights ({self.candidate}) are {what} on select by {self.metric} {than}{', '.join(parts)}"


def judge_candidate(
    candidate: str,
    metric: str,
    figures: Figures,
    rivals: Mapping[str, Figures],
    margin: float | None = None,
    incomparable: str = "",
) -> Verdict:
    """Compare a candidate with its rivals, image by image.

    Args:
        candidate: what it is called.
        metric: the objective, a mean over images.
        figures: its value for each image.
        rivals: the same of each rival, of the same degraded images; the champion, if there is one, is last.
        margin: by how much the candidate must be better, in the objective's unit; `MARGIN_DB` by default.
        incomparable: why the champion is not among them; the candidate does not pass then.
    """
    sign = 1.0 if METRICS[metric].direction == "maximize" else -1.0
    if margin is None:
        margin = MARGIN_DB if METRICS[metric].unit == "dB" else 0.0
    found = [compared(rival, bootstrap_interval(sign * (figures - other)), margin) for rival, other in rivals.items()]
    return Verdict(candidate, metric, margin, len(figures), tuple(found), incomparable)


def compared(rival: str, gain: Interval, margin: float = 0.0) -> Comparison:
    """What a gain over a rival means."""
    if gain.low > 0:
        return Comparison(rival, gain, PASSED if gain.mean >= margin else TOO_LITTLE)
    return Comparison(rival, gain, WORSE if gain.high < 0 else UNCLEAR)
