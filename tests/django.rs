//! In front of a real Django application under gunicorn.
