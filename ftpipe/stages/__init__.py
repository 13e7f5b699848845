"""The six stages, one module and one function each: validate, count, upload, create, poll, register.

This package re-exports nothing: a function ``validate`` beside the module ``validate`` would hide the module.
"""
