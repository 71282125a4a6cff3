"""Lesions of known shape: a box that is larger in each subject."""

import numpy as np


def boxes(shape=(3, 8, 8, 8)):
    truth = np.zeros(shape, dtype=bool)
    for number, volume in enumerate(truth):
        volume[2 : 4 + number, 3:6, 1:5] = True
    return truth
