"""The viewer of a report: latent sliders, a pager of held-out subjects, a scatter of their codes, and a filter.

====================  ==========================================================================================
``part``              ``viewer_part``: what the page holds, within its limit of bytes, and the sentences
``template_decoder``  a decoder that the page itself can run
``sliders``           else the decoder's planes as each latent moves alone, and how far their sums are right
``cohort``            who is there: names, codes, covariates and scores; who is shown with pictures
``planes``            three planes of a volume as bytes
``page``              a folder: the viewer's markup, style and scripts, which become a part of the report
====================  ==========================================================================================
"""

from .part import viewer_part

__all__ = ["viewer_part"]
