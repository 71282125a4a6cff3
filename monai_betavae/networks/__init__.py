"""Encoders, decoders, the posterior between them, and warm starts.

======================  ========================================================================================
``builders``            ``build_encoder``, ``build_decoder``, ``build_network`` from MONAI's blocks, for any shape
``modules``             the modules that they return; ``ReconstructionNetwork``, which the bundle stores
``latent_model``        the protocol of a model: ``encode`` and ``decode``, and its runs over many images
``posterior``           q(z|x) = N(mu, exp(logvar)) from features, in float32
``template``            the decoder that deforms a template
``correction``          feedback through the template, which corrects the encoder's codes, and its curvature
``principal_projection``  principal component scores in the encoder
``varying_voxels``      base of both: values for the voxels that vary, and their sizes from a state dict
``sampling_slopes``     slopes of interpolated values, by torch and for ONNX
``warm_start``          start from the training volumes: the mean image, PCA, a template
``principal_components``  exact PCA of volumes, for the warm start and as a baseline
``field_of_view``         where scans are cut off on the grid: edges, and what lies beyond them
``noise``               standard deviations of the likelihood, for all voxels or for each
``var_autoencoder``     MONAI's ``VarAutoEncoder`` as a network of this package
``acceleration``        compile, recompute activations
``lone_images``         batch normalisation of a batch that has one image
======================  ========================================================================================
"""

from .builders import build_decoder, build_encoder, build_network
from .modules import ReconstructionNetwork
from .var_autoencoder import build_var_autoencoder, build_var_decoder, build_var_encoder, from_var_autoencoder

__all__ = [
    "ReconstructionNetwork",
    "build_decoder",
    "build_encoder",
    "build_network",
    "build_var_autoencoder",
    "build_var_decoder",
    "build_var_encoder",
    "from_var_autoencoder",
]
