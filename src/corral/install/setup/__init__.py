"""`corral setup`: from people's names to a running service, step by step, and back.

`plan` makes the steps of an installation and `removal` those that undo it; both look before they do, so that a second
run changes nothing. What was made is in the `receipt`, and only that is undone.
"""
