"""What an adversary would try: values, sizes and ranks around an example."""
