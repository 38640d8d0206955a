"""Politeness to origins, kept by all workers together through PostgreSQL.

origin_gate        where downloads wait for a slot of their host
origin_demand      what one worker wants of which host
origin_queue       the statements
origin_state       pauses and breakers; fair_shares who gets how many slots (pure)
"""
