"""Tables of subjects.

===============  ===============================================================================================
``table_files``  a reader of CSV and TSV files
``columns``      the meaning of a column's cells: numbers, categories, missing values
``covariates``   kinds of covariates: quantities and categories, and their order
===============  ===============================================================================================
"""
