"""Epochs per minute of this project's training loop and of RecBole's loader and Trainer.

Both train the same RecBole model class with the same loss, batch size, learning rate, training rows
and number of threads; both are validated on the same candidates after each epoch. Only the training
part of an epoch is timed, in wall seconds and, since machines are shared, in CPU seconds.

Importing RecBole's sequential models switches on torch's anomaly detection, so RecBole as shipped
trains with it; ``--anomaly-off`` gives RecBole's side the benefit of switching it off.

    python benchmarks/recbole_training.py --model sasrec --domain amazon-beauty --epochs 2 --threads 1
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.baselines.batches import pad_histories
from bench.data.domain import Domain
from bench.data.load import load_domain
from bench.evaluation import metric_per_user, rank_outcomes
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.protocol import ProtocolOptions, Task, build_task
from bench.testing import make_context

CLASSES = {"gru4rec": "GRU4Rec", "sasrec": "SASRec", "bert4rec": "BERT4Rec"}
VALIDATION_USERS = 2000


def ours(task: Task, model: str, epochs: int, folder: Path) -> list[dict[str, float]]:
    """Epoch history of our loop on all prefixes, the rows that RecBole trains on."""
    method_class = resolve(model)
    config = resolve_config(
        method_class, profile="paper", overrides={"epochs": epochs, "patience": epochs}
    )
    method: Any = method_class(config)
    context = make_context(folder, task, validation_users=VALIDATION_USERS)
    method.fit(task.train_view(with_sources=False), context)
    return list(method.report.history)


def write_atomic_file(domain: Domain, folder: Path) -> None:
    """The domain as RecBole reads it: positions as times, since it keeps times as float32."""
    path = folder / "bench" / "bench.inter"
    path.parent.mkdir(parents=True)
    with path.open("w", encoding="utf-8") as stream:
        stream.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user in range(domain.n_users):
            for position, item in enumerate(domain.sequences[user].tolist()):
                stream.write(f"{user}\t{item}\t{position}\n")


def recbole(
    domain: Domain, task: Task, model: str, epochs: int, folder: Path, *, anomaly_off: bool
) -> list[dict[str, float]]:
    """Epoch history of RecBole's own data set, loader and Trainer."""
    for name, kind in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        if not hasattr(np, name):
            setattr(np, name, kind)
    sys.argv = sys.argv[:1]
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    write_atomic_file(domain, folder / "data")
    os.chdir(folder)
    name = CLASSES[model]
    sizes = {"embedding_size": 64} if model == "gru4rec" else {"hidden_size": 64}
    config = Config(
        model=name,
        dataset="bench",
        config_dict={
            "data_path": str(folder / "data"),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "order": "TO",
                "group_by": "user",
                "mode": "full",
            },
            "train_neg_sample_args": None,
            "loss_type": "CE",
            "train_batch_size": 256,
            "learning_rate": 1e-3,
            "epochs": epochs,
            "stopping_step": epochs,
            "use_gpu": False,
            "gpu_id": "",
            "seed": 0,
            "show_progress": False,
            "checkpoint_dir": str(folder / "saved"),
            **sizes,
        },
    )
    init_seed(0, True)
    dataset = create_dataset(config)
    train_data, _, _ = data_preparation(config, dataset)
    net = get_model(name)(config, train_data._dataset)
    ids = dataset.token2id("item_id", [str(i) for i in range(domain.n_items)])
    to_recbole = torch.from_numpy(np.concatenate([[0], ids]))

    requests, labels = task.validation(task.subset(VALIDATION_USERS))
    # BERT4Rec as shipped drops the oldest item; the dummy in front takes its place.
    extra = 1 if model == "bert4rec" else 0
    history: list[dict[str, float]] = []

    def validation_figure() -> float:
        values = np.empty(requests.candidates.shape, dtype=np.float32)
        for start in range(0, len(requests), 250):
            rows = np.arange(start, min(start + 250, len(requests)))
            items, lengths = pad_histories(requests.history, rows, max_length=50 - extra)
            mapped = to_recbole[torch.from_numpy(items)]
            mapped = torch.cat((mapped.new_zeros(len(rows), extra), mapped), dim=1)
            with torch.inference_mode():
                scores = net.full_sort_predict(
                    {"item_id_list": mapped, "item_length": torch.from_numpy(lengths) + extra}
                )
            columns = to_recbole[torch.from_numpy(requests.candidates[rows].astype(np.int64) + 1)]
            values[rows] = scores.gather(1, columns).numpy()
        outcomes = rank_outcomes(values, labels.position)
        return float(metric_per_user(outcomes, "ndcg@5").mean())

    torch.autograd.set_detect_anomaly(torch.is_anomaly_enabled() and not anomaly_off)
    print(f"  RecBole trains with anomaly detection {torch.is_anomaly_enabled()}", flush=True)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, net)
    for epoch in range(1, epochs + 1):
        net.train()
        began, cpu_began = time.perf_counter(), time.process_time()
        loss = trainer._train_epoch(train_data, epoch - 1, show_progress=False)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        net.eval()
        history.append(
            {
                "epoch": epoch,
                "loss": float(loss) / len(train_data),
                "ndcg@5": validation_figure(),
                "seconds": seconds,
                "cpu_seconds": cpu,
            }
        )
        print(f"  RecBole epoch {epoch}: {history[-1]}", flush=True)
    return history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(CLASSES), default="sasrec")
    parser.add_argument("--domain", default="amazon-beauty")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--anomaly-off", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    domain = load_domain(arguments.domain)
    # RecBole knows no leak guard, so both sides train on the unguarded rows.
    task = build_task(domain, options=ProtocolOptions(keep_leak=True))
    print(
        f"{arguments.model} on {arguments.domain}: {arguments.epochs} epochs over all prefixes, "
        f"batch 256, {arguments.threads} thread(s), torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ours").mkdir()
        mine = ours(task, arguments.model, arguments.epochs, folder / "ours")
        for row in mine:
            print(f"  ours    epoch {row['epoch']}: {row}", flush=True)
        theirs = recbole(
            domain,
            task,
            arguments.model,
            arguments.epochs,
            folder,
            anomaly_off=arguments.anomaly_off,
        )

    def per_minute(rows: list[dict[str, float]], key: str = "seconds") -> float:
        return 60 / float(np.median([r[key] for r in rows]))

    gap = max(abs(a["ndcg@5"] - b["ndcg@5"]) for a, b in zip(mine, theirs, strict=True))
    print(
        f"epochs per minute: ours {per_minute(mine):.2f}, RecBole {per_minute(theirs):.2f}; "
        f"ratio {per_minute(mine) / per_minute(theirs):.2f}, "
        f"in CPU time {per_minute(mine, 'cpu_seconds') / per_minute(theirs, 'cpu_seconds'):.2f}; "
        f"largest gap of the validation curves (NDCG@5): {gap:.4f}"
    )


if __name__ == "__main__":
    main()
