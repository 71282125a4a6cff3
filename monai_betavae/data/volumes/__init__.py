"""One volume's file.

================  ==============================================================================================
``volume_files``  open a file, read its header and voxels, say whether a model can use it
``dicom``         a folder of DICOM slices
``openbhb``       OpenBHB's arrays
``lazy_voxels``   voxels that are read when they are used
================  ==============================================================================================
"""
