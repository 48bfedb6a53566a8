"""Trains the network of the notebook (`cifar_vgg16`) with Keras: the peer that vgg_lib is measured against.

    pip install keras==3.15.1 tensorflow-cpu==2.21.0 scipy pillow
    python keras_baseline.py --data data/cifar-10-batches-bin --epochs 1 --json

As in the notebook: images standardised by one mean and one deviation, rotation of 15 degrees, shifts of 0.1,
horizontal flip, l2(0.0005), SGD (0.1, momentum 0.9, Nesterov), a rate that decays by 1e-6 per step and halves every
20 epochs. Only full batches are trained on. `seconds` and `images_per_second` are of training alone, without
validation; `loss` includes the penalty, `val_loss` too; `loss` and `acc` are means over the epoch.
A thread of its own augments images, ten batches ahead at most. `--max-steps` shortens each epoch, and its validation
to as many batches, for a quick check. No XLA by default: on a CPU of two cores a step took five times as long with it (`--xla`).
"""

import argparse
import json
import os
import queue
import resource
import threading
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers, regularizers
from keras.src.legacy.preprocessing.image import ImageDataGenerator

CLASSES = 10
WEIGHT_DECAY = 0.0005
# Per block: the channels, and the dropout rate after each convolution (None: no dropout layer).
BLOCKS = [
    (64, [0.3, None]),
    (128, [0.4, None]),
    (256, [0.4, 0.4, None]),
    (512, [0.4, 0.4, None]),
    (512, [0.4, 0.4, None]),
]


def cifar_vgg16(dropout=True, activation="softmax"):
    """The notebook's network. Dropout and the last activation can be left out, for fixtures."""
    drop = lambda rate: [layers.Dropout(rate)] if dropout and rate else []
    net = [keras.Input((32, 32, 3))]
    for b, (channels, rates) in enumerate(BLOCKS, 1):
        for i, rate in enumerate(rates, 1):
            name = f"block{b}_conv{i}"
            penalty = None if name == "block1_conv2" else regularizers.L2(WEIGHT_DECAY)  # as in the notebook
            net += [
                layers.Conv2D(channels, 3, padding="same", activation="relu", kernel_regularizer=penalty, name=name),
                layers.BatchNormalization(name=f"{name}_bn"),
                *drop(rate),
            ]
        net.append(layers.MaxPooling2D(2, name=f"block{b}_pool"))
    net += [
        *drop(0.5),
        layers.Flatten(name="flatten"),
        layers.Dense(512, activation="relu", kernel_regularizer=regularizers.L2(WEIGHT_DECAY), name="fc1"),
        layers.BatchNormalization(name="fc1_bn"),
        *drop(0.5),
        layers.Dense(CLASSES, activation=activation, name="predictions"),
    ]
    return keras.Sequential(net, name="cifar_vgg16")


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """0.1, halved every 20 epochs, and divided by 1 + 1e-6 * step, as old Keras' `decay` did."""

    def __init__(self, steps_per_epoch):
        self.steps_per_epoch = steps_per_epoch

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        halvings = keras.ops.floor(step / (20 * self.steps_per_epoch))
        return 0.1 * 0.5**halvings / (1 + 1e-6 * step)


def load(folder, files):
    """CIFAR-10's binary files: one byte of label, then 3 planes of 32x32 bytes."""
    rows = np.concatenate([np.fromfile(os.path.join(folder, f), np.uint8) for f in files]).reshape(-1, 3073)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images.astype("float32", order="C"), keras.utils.to_categorical(rows[:, 0], CLASSES)


def augmented(x, y, batch_size, seed):
    """Augmented full batches without end, made in a thread of their own."""
    datagen = ImageDataGenerator(rotation_range=15, width_shift_range=0.1, height_shift_range=0.1, horizontal_flip=True)
    batches = queue.Queue(maxsize=10)

    def work():
        for batch in datagen.flow(x, y, batch_size=batch_size, seed=seed):
            if len(batch[0]) == batch_size:
                batches.put(batch)

    threading.Thread(target=work, daemon=True).start()
    while True:
        yield batches.get()


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--data", required=True, help="folder of data_batch_1.bin and so on")
    args.add_argument("--epochs", type=int, default=250)
    args.add_argument("--batch-size", type=int, default=128)
    args.add_argument("--max-steps", type=int, help="steps per epoch, at most")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--json", action="store_true", help="one JSON object a line")
    args.add_argument("--xla", action="store_true", help="compile the step with XLA")
    args = args.parse_args()

    def report(**values):
        print(json.dumps(values) if args.json else "  ".join(f"{k} {v:.6g}" for k, v in values.items()), flush=True)

    keras.utils.set_random_seed(args.seed)
    x_train, y_train = load(args.data, [f"data_batch_{i}.bin" for i in range(1, 6)])
    x_test, y_test = load(args.data, ["test_batch.bin"])
    mean, std = x_train.mean(), x_train.std()
    for x in (x_train, x_test):
        x -= mean
        x /= std + 1e-7

    steps = len(x_train) // args.batch_size
    rate = Rate(steps)
    if args.max_steps:
        steps = min(steps, args.max_steps)
        x_test, y_test = x_test[: steps * args.batch_size], y_test[: steps * args.batch_size]

    model = cifar_vgg16()
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=args.xla,
    )
    batches = augmented(x_train, y_train, args.batch_size, args.seed)
    for epoch in range(args.epochs):
        model.reset_metrics()
        start = time.perf_counter()
        for _ in range(steps):
            x, y = next(batches)
            train = model.train_on_batch(x, y, return_dict=True)
        seconds = time.perf_counter() - start
        test = model.evaluate(x_test, y_test, batch_size=args.batch_size, verbose=0, return_dict=True)
        report(
            epoch=epoch,
            seconds=seconds,
            images_per_second=steps * args.batch_size / seconds,
            lr=float(rate(model.optimizer.iterations)),
            loss=float(train["loss"]),
            acc=float(train["accuracy"]),
            val_loss=test["loss"],
            val_acc=test["accuracy"],
        )
    report(peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
