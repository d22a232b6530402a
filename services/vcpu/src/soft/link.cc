// Links between translated blocks: whoever drops a block finds all that jump to it.
#include "soft/insn.h"
#include "soft/translate.h"

namespace nyx::soft {

// Of the list of links to its block.
static void take_out(Link& link) {
  if (!link.jumps_to) return;
  Link** at = &link.jumps_to->in;
  while (*at != &link) at = &(*at)->in_next;
  *at = link.in_next;
  link.jumps_to = nullptr;
}

void connect(Link& link, Block* b) {
  if (!link.stub || !b->hot_flags) return;
  link.exit->addend = intptr_t(b->host) - intptr_t(b->rip);
  if (link.jumps_to == b) return;
  take_out(link);
  link.jumps_to = b;
  link.in_next = b->in;
  b->in = &link;
  link.exit->jump = link.pending ? b->hot_flags : b->hot;
}

void disconnect(Block* b) {
  for (Link* link = b->in; link; link = link->in_next) {
    link->exit->jump = link->stub;
    link->jumps_to = nullptr;
  }
  b->in = nullptr;
  for (unsigned k = 0; k < 2u + b->sides; k++) {
    Link& link = b->links[k];
    take_out(link);
    if (link.stub) link.exit->jump = link.stub;  // a return may still come here
  }
}

}  // namespace nyx::soft
