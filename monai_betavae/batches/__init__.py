"""What a loader yields, as the plain tensors that everything computes on.

============  ==================================================================================================
``images``    the images, targets and names of a batch, checked
``ordering``  rows in the dataset's order, and each process's share of a batch
============  ==================================================================================================
"""
