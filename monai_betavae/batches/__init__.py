"""Batches of a loader as plain tensors, in order.

==================  ============================================================================================
``images``          the images, targets and names of a batch, checked
``ordering``        the rows of a dataset in its own order
``process_shares``  the share of a global batch that each process holds, and its noise
``gathered_rows``   posteriors and codes of all processes' images
==================  ============================================================================================
"""
