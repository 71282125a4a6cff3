"""The file of one volume.

================  ==============================================================================================
``volume_files``  open a file, read its header and voxels, check whether a model can use it
``dicom``         folders of DICOM slices
``openbhb``       the arrays of OpenBHB
``lazy_voxels``   voxels that are read on first use
================  ==============================================================================================
"""
