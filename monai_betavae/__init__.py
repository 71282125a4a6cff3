"""The beta-VAE for 3D brain MRI in the MONAI ecosystem."""

__version__ = "0.1.0"
