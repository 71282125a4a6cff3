"""Tables of subjects.

===============  ===============================================================================================
``table_files``  read a CSV, TSV or XLS file
``columns``      what the cells of a column mean: numbers, categories, missing values
``covariates``   which columns are covariates, and of which kind
===============  ===============================================================================================
"""
