"""The study with Lightning, Optuna and MLFlowLogger, after the examples in their documentation."""

import json
import logging

import lightning as L
import mlflow
import optuna
import torch
from denoiser import add_noise, arguments, build_model, loaders, psnr
from lightning.pytorch.loggers import MLFlowLogger
from torch import Tensor, nn

TRACKING_URI = "sqlite:///mlflow.db"


class Denoiser(L.LightningModule):
    def __init__(self, bottleneck: int, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = build_model(bottleneck)
        self.lr = lr
        self.criterion = nn.BCEWithLogitsLoss()
        self.best = float("-inf")

    def training_step(self, batch: list[Tensor]) -> Tensor:
        clean, _ = batch
        loss = self.criterion(self.model(add_noise(clean)), clean)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        clean, _ = batch
        logits = self.model(add_noise(clean))
        self.log_dict({"val_loss": self.criterion(logits, clean), "val_psnr": psnr(logits, clean)})

    def on_validation_epoch_end(self) -> None:
        self.best = max(self.best, float(self.trainer.callback_metrics["val_psnr"]))

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.lr,
            total_steps=self.trainer.estimated_stepping_batches + 1,
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main() -> None:
    given = arguments()
    configurations = json.loads(given.trials.read_text())
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(TRACKING_URI)

    def objective(trial: optuna.Trial) -> float:
        bottleneck = trial.suggest_int("bottleneck", 16, 64, log=True)
        lr = trial.suggest_float("lr", 1e-3, 4e-3, log=True)
        L.seed_everything(trial.number, verbose=False)
        train, val = loaders(given.data_dir, batch_size=128)
        model = Denoiser(bottleneck, lr)
        trainer = L.Trainer(
            max_epochs=given.epochs,
            accelerator="cpu",
            precision="bf16-mixed" if given.bfloat16 else "32-true",
            logger=MLFlowLogger("denoise", run_name=f"trial-{trial.number}", tracking_uri=TRACKING_URI),
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, train, val)
        return model.best

    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler, storage="sqlite:///optuna.db")
    for configuration in configurations:
        study.enqueue_trial(configuration)
    study.optimize(objective, n_trials=len(configurations))
    given.result.write_text(json.dumps([trial.value for trial in study.trials]))


if __name__ == "__main__":
    main()
