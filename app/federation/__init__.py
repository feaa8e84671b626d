"""With whom we talk: our identity, the peers, connections with them, and what is subscribed to.

    identity       who we are, and what we sign with
    rotation       the life of our keys: announced, in use, retired, revoked
    told           which peers know how our keys stand, and telling the others
    peers          who they are, and which of their keys we trust
    lifecycle      the moves of a connection that both sides cause
    look           what is at an address, stage by stage, before anything is sent there
    asking         for a connection: preview, initiate
    connections    what our people do with one: accept, suspend, resume, disconnect, verify, pause
    trust          what a person says of a peer's keys: verified, accepted, refused
    acts           what all of that has in common: the audit log, and the wait for an answer
    streams        where the counting over a connection stands
    clocks         how far a peer's clock is from ours
    self_check     whether BASE_URL leads to this instance
    requests       connection requests of others, from the first byte until a person sees them
    subscriptions  which event types flow, as subscriber and as publisher
    controls       our control messages: numbered, signed, queued
    sending        our control messages on their way, one at a time, in order
    calls          signed requests, around a change of our keys
    answers        what their answers change here
    receiving      their control messages: repeats, numbers, and what each one does
    consequences   what outbox and inbox do about all that; they plug in from above
    leases         names of holders of a lease, of whom a sweep can tell that they are dead
    outside        the one client of this process

Nothing here knows how events are sent or taken in; nothing here knows HTTP but through `app.transport`.
"""
