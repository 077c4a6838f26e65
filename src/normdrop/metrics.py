"""What is measured of a replicate: one row per metric. Torch-free: who reads records knows it too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """column: in replicates.csv. unit: `pp` (stored as a fraction), `steps` (a report has them as shares of the step
    budget), `nats`, or any other: its values stand as they are. tag: in TensorBoard, or none."""

    column: str
    words: str
    unit: str
    higher_is_better: bool = False
    tag: str | None = None

    @property
    def scale(self) -> float:
        """What a report multiplies a value by to have the unit that it tells."""
        return 100.0 if self.unit in ("pp", "steps") else 1.0

    @property
    def told(self) -> str:
        """The unit of what a report prints."""
        return "% of the budget" if self.unit == "steps" else self.unit

    @property
    def rope(self) -> float:
        """Differences up to this are of no practical consequence, where a study names no other."""
        return {"pp": 0.005, "steps": 0.05, "nats": 0.02}.get(self.unit, 0.01)


SILENCED_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)


def silenced(fraction: float) -> str:
    """The column of test accuracy with this fraction of the units silenced."""
    return f"silenced_{fraction:.0%}".removesuffix("%")


# In the order of HPARAMS' columns: TensorBoard shows the first five until asked for more, and its plots leave
# out what lacks one of those: they are never empty. Losses are mean NLL, in evaluation mode. Of a column named
# <part>_<measure> the measure is one of `training.module.MEASURES`, taken of the rows of that part.
METRICS = {
    metric.column: metric
    for metric in (
        Metric("test_acc", "test accuracy", "pp", True, "test/acc"),
        Metric("test_nll", "test NLL", "nats", False, "test/loss"),
        Metric("test_ece", "test calibration error", "pp", False, "test/ece"),
        Metric("gap", "accuracy gap", "pp", False, "test/acc_gap"),
        Metric("nll_gap", "NLL gap", "nats", False, "test/loss_gap"),
        Metric("test_balanced_acc", "balanced test accuracy", "pp", True, "test/balanced_acc"),
        Metric("steps_to_level", "steps to target loss", "steps", False, "train/steps_to_level"),
        Metric("recal_test_acc", "test accuracy, recalibrated", "pp", True, "test/acc_recalibrated"),
        Metric("recal_test_nll", "test NLL, recalibrated", "nats", False, "test/loss_recalibrated"),
        Metric("train_acc", "training accuracy", "pp", True, "train/acc"),
        Metric("train_nll", "training NLL", "nats", False, "train/nll"),
        Metric("train_ece", "training calibration error", "pp"),
        Metric("val_acc", "validation accuracy", "pp", True, "val/acc_selected"),
        Metric("val_nll", "validation NLL", "nats", False, "val/loss_selected"),
        Metric("val_ece", "validation calibration error", "pp"),
        Metric("reliance", "accuracy drop with ablated units", "pp", False, "test/reliance"),
        Metric("reliance_most_used", "accuracy drop with the most used units ablated", "pp"),
        *(
            Metric(silenced(share), f"test accuracy, {share:.0%} of units ablated", "pp", True)
            for share in SILENCED_FRACTIONS
        ),
    )
}
