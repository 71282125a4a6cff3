"""Second implementations of the objectives: loops over images and latents in numpy, from the papers' formulas."""

import math

import numpy as np


def log_normal(value, mean, deviation):
    return -0.5 * math.log(2 * math.pi) - math.log(deviation) - 0.5 * ((value - mean) / deviation) ** 2


def kl_by_dimension(mean, deviation):
    n_batch, n_latents = mean.shape
    found = np.zeros(n_latents)
    for row in range(n_batch):
        for latent in range(n_latents):
            m, s = mean[row, latent], deviation[row, latent]
            found[latent] += 0.5 * (m**2 + s**2 - 1) - math.log(s)
    return found / n_batch


def log_sum(values):
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def weight(own, other, n_batch, n_images, estimator):
    """Weight of a posterior at a code: ``other`` counts from the code's own posterior, which is 0."""
    if estimator == "weighted":
        return 1 / (n_images * n_batch)
    if n_batch == 1:
        return 1.0
    distance = (other - own) % n_batch
    if distance == 0:
        return 1 / n_images
    if distance == 1:
        return (n_images - n_batch + 1) / (n_images * (n_batch - 1))
    return 1 / (n_batch - 1)


def decomposed(z, mean, deviation, n_images, estimator):
    n_batch, n_latents = z.shape
    total = np.zeros(3)
    for code in range(n_batch):
        joint, by_latent = [], [[] for _ in range(n_latents)]
        for posterior in range(n_batch):
            share = math.log(weight(code, posterior, n_batch, n_images, estimator))
            each = [log_normal(z[code, k], mean[posterior, k], deviation[posterior, k]) for k in range(n_latents)]
            joint.append(sum(each) + share)
            for k in range(n_latents):
                by_latent[k].append(each[k] + share)
        own = sum(log_normal(z[code, k], mean[code, k], deviation[code, k]) for k in range(n_latents))
        aggregated, product = log_sum(joint), sum(log_sum(each) for each in by_latent)
        prior = sum(log_normal(z[code, k], 0, 1) for k in range(n_latents))
        total += [own - aggregated, aggregated - product, product - prior]
    return total / n_batch


def dip(mean, deviation, off_diagonal, diagonal, kind):
    covariance = np.cov(mean.T, bias=True).reshape(mean.shape[1], -1)
    if kind == "II":
        covariance = covariance + np.diag((deviation**2).mean(axis=0))
    found = 0.0
    for row in range(len(covariance)):
        for column in range(len(covariance)):
            if row == column:
                found += diagonal * (covariance[row, row] - 1) ** 2
            else:
                found += off_diagonal * covariance[row, column] ** 2
    return found


def kernel_of_normals(mean, variance, bandwidth):
    """Expected value of the kernel at a difference that is normal."""
    found = 1.0
    for m, v in zip(mean, variance, strict=True):
        found *= bandwidth / math.sqrt(bandwidth**2 + v) * math.exp(-(m**2) / (2 * (bandwidth**2 + v)))
    return found


def mmd(mean, deviation, bandwidth):
    n_batch, n_latents = mean.shape
    among = across = 0.0
    for i in range(n_batch):
        across += kernel_of_normals(mean[i], deviation[i] ** 2 + 1, bandwidth)
        for j in range(n_batch):
            if i != j:
                among += kernel_of_normals(mean[i] - mean[j], deviation[i] ** 2 + deviation[j] ** 2, bandwidth)
    prior = kernel_of_normals(np.zeros(n_latents), np.full(n_latents, 2.0), bandwidth)
    return among / (n_batch * (n_batch - 1)) - 2 * across / n_batch + prior
