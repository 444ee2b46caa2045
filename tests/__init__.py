"""The tests mirror twisted_im/; what several of them share stands here beside them, as `tests.<name>`."""
