"""The evaluation of the paper (Kwon et al., SOSP 2023, section 6), done again: its figures beside ours."""
