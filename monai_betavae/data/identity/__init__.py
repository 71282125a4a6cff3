"""The rule that decides from a path which subject and session a volume belongs to.

====================  ==========================================================================================
``subject_rule``      the rule: which part of the paths is the subject, and when the paths are ambiguous
``path_fields``       the fields of a path
``path_words``        the words of a field and their meanings
``path_sessions``     sessions, visits and dates
``path_records``      the records of a folder's files
``bids_names``        BIDS entities, stems and natural order of paths
``subject_patterns``  ``subject_from``: patterns given by the user
``readings``          the possible readings that a refusal lists
``public_cohorts``    identifiers of public cohorts
``joins``             comparison of a table's keys with those of the cohort
====================  ==========================================================================================
"""
