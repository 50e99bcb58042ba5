// Queue of DEPTH words of W bits between two handshakes of one clock: a block memory and a word that waits at the output.
//
// wen, wdata    writes a word. There is no full flag: the writer counts (hwgen_rtl/axi.py holds a credit for every word), and at most DEPTH words
//               may be in the queue, the one at the output included
// rvalid, rdata   the oldest word; ren: takes it, and the next one is there in the following cycle
// rst           empties the queue; a wen in the same cycle is lost
// From wen to rvalid of an empty queue: 2 cycles. A write and a read per cycle. The memory has no initial value: a word is written before it
// is read. Cost: one memory of DEPTH x W bits (block RAM, or UltraRAM where the chip has it), two counters.
module stream_fifo #(
  parameter [31:0] W = 64, parameter [31:0] DEPTH = 16
) (
  input  logic         clk,
  input  logic         rst,
  input  logic         wen,
  input  logic [W-1:0] wdata,
  input  logic         ren,
  output logic         rvalid,
  output logic [W-1:0] rdata
);
  localparam [31:0] AW = DEPTH > 1 ? $clog2(DEPTH) : 1;
  localparam [31:0] LAST = DEPTH - 1;
  logic [W-1:0]  mem [0:DEPTH-1];
  logic [AW-1:0] produce, consume;
  logic [AW:0]   level;                                 // words in the memory
  logic          fetch;
  assign fetch = level != 0 & (!rvalid | ren);
  always @(posedge clk) if (wen) mem[produce] <= wdata;
  always @(posedge clk) if (fetch) rdata <= mem[consume];
  initial {produce, consume, level, rvalid} = 0;
  always @(posedge clk) begin
    if (wen) produce <= produce == LAST[AW-1:0] ? 0 : produce + 1'b1;
    if (fetch) consume <= consume == LAST[AW-1:0] ? 0 : consume + 1'b1;
    if (wen != fetch) level <= wen ? level + 1'b1 : level - 1'b1;
    if (fetch | ren) rvalid <= fetch;
    if (rst) {produce, consume, level, rvalid} <= 0;
  end
endmodule
