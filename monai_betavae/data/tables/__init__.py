"""Tables of subjects.

====================  ==========================================================================================
``table_files``       a reader of CSV and TSV files
``columns``           the meaning of a column's cells: numbers, categories, missing values
``covariates``        kinds of covariates: quantities and categories, and their order
``covariate_values``  values of covariates in records, read as numbers or levels, or refused
``covariate_codes``   numbers that stand for the values of one covariate
``covariate_coding``  ``CovariateCoding``: the covariates of subjects as rows of numbers
====================  ==========================================================================================
"""
