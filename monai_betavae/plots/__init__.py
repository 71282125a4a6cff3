"""Functions that turn arrays into figures. Volumes are in RAS order; the subject's left is drawn on the left."""

from .activity import plot_activity
from .animation import traversal_gif
from .brain_maps import plot_maps
from .calibration import plot_p_values
from .channel_rows import channel_labels, channel_rows
from .contact_sheet import plot_contact_sheet
from .curves import plot_kl, plot_latents, plot_losses, plot_precision_recall, plot_predictions
from .figure_files import save_figure
from .folds import plot_folds
from .rate_distortion import plot_rate_distortion
from .reliability import plot_reliability
from .slices import plot_reconstructions, plot_traversals, plot_volumes
from .sweep import plot_sweep

__all__ = [
    "channel_labels",
    "channel_rows",
    "plot_activity",
    "plot_contact_sheet",
    "plot_folds",
    "plot_kl",
    "plot_latents",
    "plot_losses",
    "plot_maps",
    "plot_p_values",
    "plot_precision_recall",
    "plot_predictions",
    "plot_rate_distortion",
    "plot_reconstructions",
    "plot_reliability",
    "plot_sweep",
    "plot_traversals",
    "plot_volumes",
    "save_figure",
    "traversal_gif",
]
