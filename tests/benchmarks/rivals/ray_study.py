"""The study with Ray Tune, its OptunaSearch and its MLflow callback, two trials at once, after Ray's documentation."""

import json
import tempfile
from pathlib import Path

import torch
from denoiser import add_noise, arguments, build_model, loaders, psnr
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from torch import nn


def train_denoiser(config: dict[str, object]) -> None:
    train, val = loaders(config["data_dir"], batch_size=128)
    model = build_model(config["bottleneck"])
    criterion = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config["lr"], total_steps=len(train) * config["epochs"] + 1, cycle_momentum=False
    )
    for _ in range(config["epochs"]):
        model.train()
        train_loss = 0.0
        for clean, _ in train:
            with torch.autocast("cpu", torch.bfloat16, enabled=config["bfloat16"]):
                logits = model(add_noise(clean))
            loss = criterion(logits.float(), clean)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            train_loss += loss.item() / len(train)
        model.eval()
        val_loss = val_psnr = 0.0
        with torch.no_grad():
            for clean, _ in val:
                with torch.autocast("cpu", torch.bfloat16, enabled=config["bfloat16"]):
                    logits = model(add_noise(clean))
                val_loss += criterion(logits.float(), clean).item() / len(val)
                val_psnr += psnr(logits, clean).item() / len(val)
        with tempfile.TemporaryDirectory() as folder:
            torch.save((model.state_dict(), optimizer.state_dict()), Path(folder) / "checkpoint.pt")
            tune.report(
                {"train_loss": train_loss, "val_loss": val_loss, "val_psnr": val_psnr},
                checkpoint=tune.Checkpoint.from_directory(folder),
            )


def main() -> None:
    given = arguments()
    configurations = json.loads(given.trials.read_text())
    fixed = {"data_dir": given.data_dir, "epochs": given.epochs, "bfloat16": given.bfloat16}
    search = OptunaSearch(metric="val_psnr", mode="max", points_to_evaluate=configurations)
    tuner = tune.Tuner(
        tune.with_resources(train_denoiser, {"cpu": 1}),
        param_space={"bottleneck": tune.lograndint(16, 65), "lr": tune.loguniform(1e-3, 4e-3), **fixed},
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(search, max_concurrent=2), num_samples=len(configurations)
        ),
        run_config=tune.RunConfig(
            name="denoise",
            storage_path=str(Path("ray").absolute()),
            callbacks=[
                MLflowLoggerCallback(tracking_uri=f"sqlite:///{Path.cwd()}/mlflow.db", experiment_name="denoise")
            ],
            verbose=0,
        ),
    )
    results = list(tuner.fit())
    # Results stand in the order in which the trials were made, which is that of the configurations.
    given.result.write_text(json.dumps([float(result.metrics_dataframe["val_psnr"].max()) for result in results]))
    found = [{key: result.config[key] for key in ("bottleneck", "lr")} for result in results]
    assert found == configurations, f"Ray Tune tried {found}"


if __name__ == "__main__":
    main()
