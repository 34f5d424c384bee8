"""PGD side by side in one run: ours, foolbox, torchattacks, and the bare cost of the passes without any attack.

    python benchmarks/attack_speed.py --arch resnet8 --images 256 --steps 20 100

The images are real (CIFAR-10 from --data-dir or BENCH_DATA) where there are some, otherwise digits. The model is
trained here for a few epochs of AT and the radius then chosen by bisection, so that its robust accuracy under PGD is
about --robust. Implementations take turns (A B C D A B C D ...); medians are printed. A pass is one image forward and
backward; the bare rate is autograd.grad of the cross-entropy with respect to the images, in the same batches.
"""

from __future__ import annotations
