"""Whose a volume is: the one rule that turns paths into subjects and sessions.

====================  ==========================================================================================
``subject_rule``      the rule: which part of the paths is the subject, and when that cannot be told
``path_fields``       a path as fields
``path_words``        the words of a field and what they say
``path_sessions``     sessions, visits and dates
``path_records``      the records of a folder's files
``naming``            BIDS entities, stems and natural order of one path
``subject_patterns``  ``subject_from``: a pattern that the user gives
``readings``          what a refusal lists: the readings that are possible
``public_cohorts``    identifiers of public cohorts
``joins``             rows of a table and files of the same subject
====================  ==========================================================================================
"""
