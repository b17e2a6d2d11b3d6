"""From real digits to a result beside published ones, step by step.

Read it from top to bottom: each step is a command, and what it leaves. The recipe `smoke` trains
LeNet-5 for three epochs, which takes seconds; a real recipe takes the same steps.
"""

import json
import re
from pathlib import Path

from command import Shell

from pipeline.config.recipe import read_recipe
from pipeline.data.store.store import Store
from pipeline.evaluation.predictions import find_predictions, read_predictions
from pipeline.models.weights_file import read_weights


def test_train_a_network_evaluate_it_and_compare_it(shell: Shell, tmp_path: Path) -> None:
    # 1. Pack a data set: the digits that scikit-learn ships, the first half to train, the second to
    # test. The images lie in tar shards, an index says where each one is.
    assert "898 train, 899 val images, 10 classes" in shell("ilsvrc prepare digits")
    digits = Store.open(Path("data/digits"))
    assert digits.split_names == ("train", "val")
    assert digits.split("train").encoded(0)[1:4].tobytes() == b"PNG"

    # 2. Train. A worker count of 0 is the command's own process, without Ray; without this, the
    # cluster `laptop` starts two workers.
    here = "--set cluster.workers.count=0"
    printed = shell(f"ilsvrc train smoke --run first {here}")
    assert "epoch 1/3 step 15/15" in printed
    assert "epoch 3/3  val (whole, 899 images)" in printed
    # MLflow has the curves; this address opens on the errors.
    assert re.search(r"127\.0\.0\.1:5000/#/experiments/\d+/runs\?viewStateShareKey=errors", printed)

    # The run lies in a folder: what was trained, every metric, the weights.
    run = tmp_path / "runs" / "first"
    assert read_recipe(run / "recipe.yaml").network.name == "lenet5_modern"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["step"] == 45
    weights = read_weights(run / "weights.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == 61_706

    # 3. The same command finds the training complete and does nothing.
    assert "this training is complete" in shell(f"ilsvrc train smoke --run first {here}")

    # 4. Evaluate by another protocol: the centre crop, and mirrored. (Digits should not be
    # mirrored: the error goes up.) The recipe's own protocol was evaluated by the training.
    printed = shell("ilsvrc evaluate first --protocol flip --set cluster.workers.count=0")
    assert "flip-36-32" in printed

    # 5. What both predicted for every image is kept, so that scoring needs no network.
    whole, flip = (
        read_predictions(find_predictions(run, split="val", protocol=protocol))
        for protocol in ("whole", "flip-36-32")
    )
    assert whole.probabilities.shape == flip.probabilities.shape == (899, 10)
    assert whole.counts.top1_error < 20 < flip.counts.top1_error
    printed = shell("ilsvrc predictions first --protocol whole --topk 1,3")
    assert f"{whole.counts.top1_error:.2f}" in printed

    # Without a protocol, those by the recipe's are meant.
    assert "first: val by whole" in shell("ilsvrc predictions first")

    # 6. Compare. No result of this network on these digits is published by others; the table says
    # so, and what other methods reach by the same protocol.
    printed = shell("ilsvrc compare first")
    assert f"{whole.counts.top1_error:.2f}" in printed
    assert "none for this network; others" in printed
    assert "side by side in MLflow: http://127.0.0.1:5000/#/compare-runs?runs=" in printed

    # 7. A number that is seen somewhere may be of something else. Here it is refused, with reasons.
    printed = shell('ilsvrc compare first --with "alexnet 15.3"')
    assert "7 networks" in printed


def test_a_mistake_is_one_line_that_says_what_to_do(shell: Shell) -> None:
    printed = shell("ilsvrc train smoke --set optimizer.learning_rte=0.1", exit_code=2)
    assert len(printed.splitlines()) == 1
    assert "'optimizer.learning_rte' is not a known key; did you mean `learning_rate`?" in printed
