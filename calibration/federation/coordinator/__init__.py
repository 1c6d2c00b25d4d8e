"""The coordinator's side: who takes part, what is asked, what is believed."""
